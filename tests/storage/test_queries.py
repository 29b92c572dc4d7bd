"""SQL gives what plain Python gives, over one run or several, and reaches nothing but the tables of the runs."""

import statistics
from collections import defaultdict

import pyarrow as pa
import pytest

from storage import queries
from storage.errors import QueryError
from storage.queries import query
from storage.run import Run
from tests.storage.runs import ARRAYS, make_run, write_all, write_unit

FAILED = (5, 6, 17)


@pytest.fixture(params=["parts", "compacted", "both"])
def run(request):
    run = make_run(f"memory://query-{request.param}-{id(request)}", image_count=30)
    if request.param == "both":
        write_unit(run, 3)
        write_unit(run, 4, failed=[17])
        run.compact()
    write_all(run, failed=FAILED)
    if request.param == "compacted":
        run.compact()
    return run


def test_the_same_question_in_plain_python(run):
    rows, failures = run.summary().to_pylist(), run.failures().to_pylist()
    by_label = defaultdict(list)
    for row in rows:
        if row["label"] is not None and row["name"] == "gradient_shap":
            by_label[row["label"]].append(row["abs_sum"])
    expected = [
        {"label": label, "n": len(sums), "mean": pytest.approx(statistics.fmean(sums), rel=1e-6)}  # float32 sums
        for label, sums in sorted(by_label.items())
    ]
    sql = "select label, count(*) n, avg(abs_sum) mean from summary where name = 'gradient_shap' and label is not null group by label order by label"
    assert run.sql(sql).to_pylist() == expected
    accuracy = statistics.fmean(row["prediction"] == row["label"] for row in rows if row["label"] is not None)
    assert run.sql("select avg((prediction = label)::int) a from summary").to_pylist() == [
        {"a": pytest.approx(accuracy)}
    ]
    top = sorted(rows, key=lambda row: -row["abs_sum"])[:5]
    assert run.sql("select * from summary order by abs_sum desc limit 5").to_pylist() == top
    assert run.sql("select * from failures order by image").to_pylist() == failures
    assert run.sql("select key from images where image not in (select image from summary)").num_rows == len(FAILED)
    assert run.sql("select i.uri, f.error from failures f join images i using (image) order by image").to_pylist() == [
        {"uri": f"/images/{image}.jpg", "error": "broken JPEG"} for image in FAILED
    ]


def test_other_ways_to_ask(run):
    for sql in ("from summary", "describe summary", "summarize summary", "explain select 1", "show tables"):
        assert run.sql(sql).num_rows > 0
    assert run.sql("pivot failures on stage in ('decode') using count(*) group by method").num_rows == 1


def test_a_reader_open_during_the_run_sees_exactly_the_committed_units():
    run = make_run("memory://query-grows", image_count=30)
    reader = Run.open(run.uri)
    assert reader.sql("select count(*) n from summary")["n"].to_pylist() == [0]
    for unit in (4, 0, 7):
        write_unit(run, unit)
        assert set(reader.sql("select distinct unit from summary")["unit"].to_pylist()) == run.committed()
    run.compact()
    write_unit(run, 1, failed=[5])
    assert reader.sql("select count(distinct image) n from summary")["n"].to_pylist() == [4 + 4 + 2 + 3]
    assert reader.sql("select image from failures")["image"].to_pylist() == [5]


def test_several_runs_are_told_apart_by_a_column(run):
    other = write_all(make_run("memory://query-other's", image_count=30, arrays=ARRAYS[:1]))
    answer = query(
        {"first": run, "it's": other},
        "select run, count(*) n, count(distinct method) m from summary group by run order by run",
    )
    assert answer.to_pylist() == [{"run": "first", "n": 54, "m": 2}, {"run": "it's", "n": 30, "m": 1}]
    sql = "select a.image from summary a join summary b using (image, method) where a.run = 'first' and b.run = 'it''s'"
    assert query({"first": run, "it's": other}, sql).num_rows == 27


def test_tables_kept_with_a_run_are_read_only_where_they_are_named(run, monkeypatch):
    run.put_table("places", pa.table({"image": [1]}))
    run.put_table("mean_maps", pa.table({"image": [2]}))
    read = []
    whole = Run.table
    monkeypatch.setattr(Run, "table", lambda run, name: read.append(name) or whole(run, name))
    run.sql("select count(*) from summary")
    assert read == []
    assert run.sql("select image from PLACES").to_pylist() == [{"image": 1}]
    assert read == ["places"]
    with pytest.raises(QueryError, match=r"tables: failures, images, mean_maps, places, summary"):
        run.sql("select * from nowhere")


def test_tables_kept_with_a_run_are_found_by_name(run):
    run.put_table("notes", pa.table({"image": [3], "note": ["a dog"]}))
    assert run.sql("select note, key from notes join images using (image)").to_pylist() == [
        {"note": "a dog", "key": "n0/00003.jpg"}
    ]


SECRET = "canary-8d1f"

FORBIDDEN = [
    "select * from '{file}'",
    "select * from read_csv('{file}')",
    "select * from read_text('{file}')",
    "select * from read_blob('{file}')",
    "select * from read_parquet('{file}')",
    "select * from read_json('{file}')",
    "select * from glob('{folder}/*')",
    "select * from 'https://example.com/x.parquet'",
    "select * from 's3://bucket/x.parquet'",
    "copy summary to '{folder}/out.csv'",
    "copy (select 1) to '{folder}/out.parquet' (format parquet)",
    "export database '{folder}/out'",
    "import database '{folder}'",
    "attach '{folder}/out.db' as other",
    "attach ':memory:' as other; select * from read_text('{file}')",
    "install httpfs",
    "load httpfs",
    "load '{folder}/x.duckdb_extension'",
    "pragma enable_external_access = true",
    "set enable_external_access = true",
    "set global enable_external_access = true",
    "reset enable_external_access",
    "set lock_configuration = false",
    "set python_enable_replacements = true",
    "set allowed_directories = ['/']",
    "set memory_limit = '100GB'",
    "set temp_directory = '{folder}'",
    "create secret s (type s3, key_id 'a', secret 'b')",
    "create persistent secret s (type s3, key_id 'a', secret 'b')",
    "select getenv('ASCRIBE_CANARY')",
    "select * from python_variable",
    "call pragma_version(); select * from read_text('{file}')",
    "create table t as select * from read_text('{file}')",
    "pragma import_database('{folder}')",
    "select query('select 1')",
    "select * from query('select * from read_text(''{file}'')')",
    "select * from sniff_csv('{file}')",
    "select * from parquet_metadata('{file}')",
    "explain analyze copy summary to '{folder}/out.csv'",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_sql_reaches_nothing_else(tmp_path, monkeypatch, sql):
    monkeypatch.setenv("ASCRIBE_CANARY", SECRET)
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    python_variable = pa.table({"x": [SECRET]})
    monkeypatch.chdir(tmp_path)
    run = write_all(make_run(f"memory://forbidden-{tmp_path.name}", image_count=4))
    with pytest.raises(QueryError) as error:
        run.sql(sql.format(file=file, folder=tmp_path))
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert python_variable.num_rows == 1


def test_settings_and_secrets_show_nothing_of_the_machine(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    run = write_all(make_run("memory://settings", image_count=4))
    for table in ("duckdb_settings()", "duckdb_secrets()", "duckdb_variables()", "duckdb_databases()"):
        assert SECRET not in str(run.sql(f"select * from {table}").to_pylist())


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select nothing from summary", 'Referenced column "nothing" not found'),
        ("select * from summery", r"summery does not exist.*tables: failures, images, summary"),
        ("selct 1", "syntax error"),
        ("create table t (x int)", "one SELECT is wanted, not CREATE"),
        ("select 1; select 2", "one SELECT is wanted, not SELECT, SELECT"),
        ("", "one SELECT is wanted, not nothing"),
    ],
)
def test_a_mistake_is_one_line_that_helps(sql, message):
    run = write_all(make_run("memory://mistakes", image_count=4))
    with pytest.raises(QueryError, match=message):
        run.sql(sql)


def test_a_query_without_end_is_stopped():
    run = write_all(make_run("memory://without-end", image_count=4))
    sql = "select sum(a.range * b.range) s from range(10000000) a, range(10000000) b"
    with pytest.raises(QueryError, match=r"longer than 0\.2 s"):
        query({"run": run}, sql, time_limit_s=0.2)


def test_an_answer_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(queries, "RESULT_LIMIT_BYTES", 1 << 20)
    run = write_all(make_run("memory://too-large", image_count=4))
    with pytest.raises(QueryError, match="larger than 1 MiB"):
        run.sql("select * from range(1000000)")


def test_a_query_out_of_memory_is_said(monkeypatch):
    monkeypatch.setattr(queries, "MEMORY_LIMIT", "100MB")
    run = write_all(make_run("memory://out-of-memory", image_count=4))
    with pytest.raises(QueryError, match="more than 100MB of memory"):
        run.sql("select count(*) from (select distinct repeat(range::varchar, 1000) from range(1000000)) t")
