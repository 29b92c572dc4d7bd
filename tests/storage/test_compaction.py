"""Compaction changes how rows lie and never which rows there are, wherever it dies and whoever reads meanwhile."""

import pyarrow.parquet as pq
import pytest

from storage import compaction, layout
from storage.commits import read_newest, unit_ranges
from storage.run import Run
from tests.storage.faults import crash_points
from tests.storage.runs import make_run, write_all, write_unit


def tables(run):
    return run.summary().to_pylist(), run.failures().to_pylist()


def names(run, folder):
    return [entry.key.split("/")[1] for entry in run.objects.entries(folder)]


def test_parts_become_one_sorted_file_a_table(uri):
    run = write_all(make_run(uri, image_count=30), failed=[5, 6, 17])
    before, progress = tables(run), run.progress()
    assert run.compact() == 8
    assert run.compact() == 0
    [summary], [failures] = names(run, "summary"), names(run, "failures")
    assert summary.startswith("compacted-000001-")
    assert failures.startswith("compacted-000001-")
    assert tables(run) == before == tables(Run.open(uri))
    assert run.progress() == progress
    assert run.progress().failed == 3
    assert run.verify().is_sound


def test_later_units_are_merged_in_order(uri):
    run = make_run(uri, image_count=30)
    for unit in (3, 1, 6):
        write_unit(run, unit, failed=[4] if unit == 1 else [])
    assert run.compact() == 3
    for unit in (0, 5, 7):
        write_unit(run, unit, failed=[28, 29] if unit == 7 else [])
    mixed = tables(run)
    assert run.compact() == 3
    assert tables(run) == mixed
    write_all(run)
    assert run.compact(at_least=3) == 0
    assert run.compact(at_least=2) == 2
    assert len(names(run, "summary")) == len(names(run, "failures")) == 1
    assert [name for name in names(run, "commits") if "compacted" in name] == ["compacted-000003.json"]
    assert run.summary()["image"].to_pylist() == sorted([*range(28), *range(28)])[:8] + [
        image for image in range(4, 28) for _ in range(2) if image != 4
    ]
    assert run.verify().is_sound


def test_row_groups_cut_units_anywhere(monkeypatch):
    monkeypatch.setattr(compaction, "ROW_GROUP", 7)  # not a divisor of anything here
    run = make_run("memory://row-groups", image_count=60)
    for unit in (2, 4, 9, 11, 14):
        write_unit(run, unit)
    run.compact()
    for unit in (0, 3, 10, 13):
        write_unit(run, unit, failed=[unit * 4])
        before = tables(run)
        run.compact()
        assert tables(run) == before
    content = run.objects.get(read_newest(run.objects)[1].summary.key)
    groups = [group.num_rows for group in compaction_groups(content)]
    assert set(groups[:-1]) == {7}
    assert 0 < groups[-1] <= 7


def compaction_groups(content):
    import pyarrow as pa

    metadata = pq.ParquetFile(pa.BufferReader(content)).metadata
    return [metadata.row_group(number) for number in range(metadata.num_row_groups)]


def test_floats_are_split_and_strings_are_not(tmp_path):
    run = write_all(make_run(tmp_path / "run"))
    run.compact()
    [path] = (tmp_path / "run/summary").iterdir()
    columns = pq.ParquetFile(path).metadata.row_group(0)
    forms = {columns.column(n).path_in_schema: columns.column(n) for n in range(columns.num_columns)}
    assert "BYTE_STREAM_SPLIT" in forms["abs_sum"].encodings
    assert "RLE_DICTIONARY" in forms["method"].encodings
    assert {form.compression for form in forms.values()} == {"ZSTD"}


def test_a_compactor_may_die_at_any_operation():
    uris = []

    def work(connect):
        uris.append(f"memory://compact-crash-{len(uris)}")
        make_run(uris[-1])
        clean = Run.open(uris[-1])
        run = Run.open(uris[-1], connect=connect)
        write_unit(clean, 0)
        write_unit(clean, 2, failed=[8])
        run.compact()
        write_unit(clean, 1, failed=[5])
        run.compact()

    expected = tables(write_all(make_run("memory://compact-undisturbed"), failed=[5, 8]))
    for point in crash_points(work):
        run = Run.open(uris[-1])
        units = run.committed()
        for table, rows in zip(tables(run), expected, strict=True):
            assert table == [row for row in rows if row["image"] // 4 in units], point
        for unit in run.pending():
            write_unit(run, unit, failed=[image for image in (5, 8) if image // 4 == unit])
        run.compact()
        assert tables(run) == expected, point
        run.collect_garbage(now_s=1e12)
        assert run.verify().is_sound, point
        # A file whose record never came may stay for as long as it could be somebody's work: here it is long gone.
        assert len([name for name in names(run, "summary") if "compacted" in name]) <= 2, point


def test_of_two_compactors_one_wins(monkeypatch):
    run = write_all(make_run("memory://two-compactors"))
    before = tables(run)
    merge = compaction._merge
    other = []

    def overtaken(*arguments):
        if not other:
            other.append(None)
            other.append(Run.open(run.uri).compact())
        return merge(*arguments)

    monkeypatch.setattr(compaction, "_merge", overtaken)
    assert run.compact() == 0
    assert other == [None, 3]
    assert tables(run) == before
    assert len(names(run, "summary")) == 1


def test_units_of_failures_only_are_compacted_too():
    run = write_all(make_run("memory://all-failed"), failed=range(4, 10))
    assert run.compact() == 3
    assert names(run, "failures")[0].startswith("compacted-")
    assert run.failures()["image"].to_pylist() == list(range(4, 10))
    assert run.progress().failed == 6


@pytest.mark.parametrize(
    ("units", "ranges"), [([], ()), ([3], ((3, 3),)), ([5, 1, 2, 3, 7, 8], ((1, 3), (5, 5), (7, 8)))]
)
def test_unit_ranges(units, ranges):
    assert unit_ranges(units) == ranges


def test_layout_names_are_read_back():
    assert layout.part_unit(layout.summary_part(12)) == 12
    assert layout.part_unit(layout.failures_part(12, 3)) == 12
    assert layout.part_failed_images(layout.failures_part(12, 3)) == 3
    assert layout.part_unit(layout.compacted("summary", 1, "ab12")) is None
    assert layout.compacted_generation(layout.compacted("failures", 7, "ab12")) == 7
    assert layout.commit_unit(layout.commit(1234567)) == 1234567
    assert layout.commit_unit(layout.retraction(1)) is layout.commit_unit(layout.compaction(1)) is None
    others = [layout.retraction(1), layout.compaction(1), f"{layout.COMMITS}/12.json", f"{layout.COMMITS}/note"]
    assert layout.in_commits([layout.commit(0), *others, layout.commit(1234567)]) == ({0, 1234567}, others)
    assert layout.in_commits([]) == (set(), [])
    assert layout.retraction_unit(layout.retraction(5)) == 5
    assert layout.compaction_generation(layout.compaction(5)) == 5
    assert layout.staged_attempt(layout.staged(3, "a-b_c", 2)) == (3, "a-b_c")
    assert layout.staged_attempt("_staging/0123.partial") is None
    assert layout.shard_unit(layout.shard("ig-2", 9, 3)) == 9
    assert layout.shard_unit("attributions.zarr/ig/image/c/0") is None
