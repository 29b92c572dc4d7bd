"""Verify notices any damage to anything a run vouches for; repair makes just the damaged units pending again."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from storage import layout
from storage.commits import vouched
from storage.index import encode_index
from storage.records import to_json
from storage.run import Run
from storage.summaries import SUMMARY, from_parquet, to_parquet
from tests.storage.faults import Crash, connecting, crash_points
from tests.storage.runs import make_index, make_run, write_all, write_unit
from tests.storage.test_commits import content

FAILED = (5,)


def damaged(content, position=0.5):
    at = int(len(content) * position)
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def final_keys(run):
    return [
        entry.key
        for folder in ("attributions.zarr", "summary", "failures", "commits")
        for entry in run.objects.entries(folder)
    ]


@pytest.fixture
def run(uri):
    return write_all(make_run(uri), failed=FAILED)


def test_a_sound_run_is_sound(run):
    report = run.verify()
    assert report.is_sound
    assert (report.units, report.unpublished) == (3, ())
    assert report.size > 1000
    assert run.repair(report) == []
    assert run.verify("sizes").is_sound


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_any_damaged_object_is_noticed_and_mended(is_compacted, harm):
    run = write_all(make_run(f"memory://damage-{harm}-{is_compacted}"), failed=FAILED)
    if is_compacted:
        run.compact()
    before = content(run)
    keys = [key for key in final_keys(run) if not layout.compaction_generation(key)]
    for key in (key for key in keys if run.objects.size(key)):
        sound = run.objects.get(key)
        if harm == "remove":
            run.objects.delete([key])
        else:
            run.objects.put(key, damaged(sound) if harm == "flip" else sound[:-1])
        if layout.commit_unit(key) is not None and harm == "remove":
            assert not run.verify("sizes").is_sound, key  # its objects are strays now
        else:
            report = run.verify()
            assert not report.is_sound, key
            assert any(key in problem.what for problem in report.problems) or layout.commit_unit(key) is not None
            assert report.is_sound is run.verify("sizes").is_sound or harm == "flip"
        if key.endswith("zarr.json") or "/image/" in key:
            assert report.units_to_retract == ()  # creation's objects come back from a copy, not from a repair
            run.objects.put(key, sound)
            continue
        run.repair(run.verify())
        write_all(run, failed=FAILED)
        assert content(run) == before, key
        assert run.verify().is_sound, key
        if is_compacted:
            run.compact()


def test_only_the_damaged_unit_is_computed_again(run):
    key = layout.shard("grad_cam", 1, 2)
    run.objects.put(key, damaged(run.objects.get(key)))
    report = run.verify()
    assert report.units_to_retract == (1,)
    assert run.repair(report) == [1]
    assert run.pending() == [1]
    assert run.objects.size(key) is None
    assert set(run.summary()["unit"].to_pylist()) == {0, 2}
    assert run.failures().num_rows == 0
    write_unit(run, 1, salt=9)
    assert run.verify().is_sound


def test_only_the_damaged_row_group_of_a_compacted_file_is_computed_again(monkeypatch):
    from storage import compaction

    monkeypatch.setattr(compaction, "ROW_GROUP", 16)  # two units of four images and two methods
    run = write_all(make_run("memory://damaged-row-group", image_count=40))
    run.compact()
    [key] = [entry.key for entry in run.objects.entries("summary")]
    whole = run.objects.get(key)
    from tests.storage.test_compaction import compaction_groups

    third = compaction_groups(whole)[2].column(5)
    at = third.data_page_offset + third.total_compressed_size // 2
    run.objects.put(key, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    report = run.verify()
    assert report.units_to_retract == (4, 5)
    run.repair(report)
    assert run.pending() == [4, 5]
    assert write_all(run).verify().is_sound
    assert run.summary().num_rows == 80


def test_a_retraction_may_die_at_any_operation():
    uris = []

    def work(connect):
        uris.append(f"memory://retract-crash-{len(uris)}")
        run = write_all(make_run(uris[-1]), failed=FAILED)
        run.compact()
        key = layout.shard("grad_cam", 1, 2)
        run.objects.put(key, damaged(run.objects.get(key)))
        report = run.verify()
        Run.open(uris[-1], connect=connect).repair(report)

    expected = content(write_all(make_run("memory://retract-undisturbed"), failed=FAILED))
    for point in crash_points(work):
        run = Run.open(uris[-1])
        assert {0, 2} <= run.committed(), point
        rows = [row for row in expected[0] if row["unit"] in run.committed()]
        assert run.summary().to_pylist() == rows, point
        run.recover()
        run.repair(run.verify())
        assert run.pending() == [1], point
        write_all(run, failed=FAILED)
        run.collect_garbage(now_s=1e12)
        assert content(run) == expected, point
        assert run.verify().is_sound, point


def test_strays_are_named_and_removed(run):
    stray = layout.shard("gradient_shap", 2, 3)
    run.objects.delete([layout.commit(2)])
    report = run.verify("sizes")
    assert stray in [problem.stray for problem in report.problems]
    assert report.units_to_retract == ()
    run.repair(report)
    assert run.objects.size(stray) is None
    write_all(run)
    assert run.verify().is_sound


def test_a_commit_of_another_run_is_refused(run):
    text = json.loads(run.objects.get(layout.commit(0)))
    run.objects.put(layout.commit(0), json.dumps({**text, "run": "0" * 64}).encode())
    report = run.verify("sizes")
    assert "another run" in report.problems[0].what
    assert report.units_to_retract == (0,)


def test_an_index_that_changed_is_noticed(uri):
    run = write_all(make_run(uri))
    labels = make_index().set_column(3, "label", [[7] * 10])
    run.objects.put(layout.INDEX, encode_index(labels))
    [problem] = Run.open(uri).verify().problems
    assert problem.what.startswith("index.parquet has")
    assert "bring it back from a copy" in problem.what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.set_column(1, "key", [["elsewhere"] * 8]), "another key than the index"),
        (lambda rows: rows.set_column(2, "label", [pa.array([7] * 8, pa.int32())]), "another label than the index"),
        (lambda rows: rows.slice(1), "image 0 of unit 0 is in neither table for grad_cam"),
        (lambda rows: pa.concat_tables([rows.slice(0, 7), rows.slice(6, 1)]), "image 3 of unit 0 is in neither table"),
    ],
)
def test_rows_that_say_something_else_than_index_and_maps_are_noticed(change, message):
    """As a faulty writer would commit them: every sum is right and the content is not."""
    run = write_all(make_run(f"memory://wrong-rows-{message}"))
    part = to_parquet(change(from_parquet(run.objects.get(layout.summary_part(0)))).cast(SUMMARY))
    run.objects.put(layout.summary_part(0), part)
    commit = run.commit_of(0)
    stored = (*commit.objects[:-1], vouched(layout.summary_part(0), part))
    run.objects.put(layout.commit(0), to_json(replace(commit, objects=stored)))
    report = run.verify()
    assert run.verify("sizes").is_sound
    assert any(message in problem.what for problem in report.problems)
    assert report.units_to_retract == (0,)


def test_what_was_committed_and_not_published_is_no_damage():
    make_run("memory://unpublished")

    def die(_, verb, key):
        if verb == "publish":
            raise Crash

    with pytest.raises(Crash):
        write_unit(Run.open("memory://unpublished", connect=connecting(die)), 1)
    run = Run.open("memory://unpublished")
    report = run.verify()
    assert (report.is_sound, report.unpublished) == (True, (1,))
    run.recover()
    assert run.verify().unpublished == ()


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("depth", ["sizes", "bytes"])
def test_work_at_any_moment_of_a_verify_is_no_damage(is_compacted, depth):
    """The rest of the run is written and compacted between any two operations of the one that looks."""
    moment, passed = 0, False
    while not passed:
        run = make_run(f"memory://beside-{is_compacted}-{depth}-{moment}")
        write_unit(run, 0, failed=[1])
        if is_compacted:
            run.compact()

        def work_meanwhile(count, verb, key, run=run, moment=moment):
            if count == moment:
                write_all(run, failed=FAILED)
                run.compact()

        looking = Run.open(run.uri, connect=connecting(work_meanwhile))
        assert looking.verify(depth).problems == (), moment
        passed = run.pending() != []
        moment += 1
    assert moment > 10


def test_garbage_is_what_lost_or_was_left_for_a_day():
    run = make_run("memory://garbage")
    write_unit(run, 0)
    for key in (layout.staged(0, "loser-1", 0), layout.staged(1, "working-1", 0), "_staging/abc.partial"):
        run.objects.put(key, b"x")
    now_s = run.objects.entries("_staging")[0].modified_s
    assert run.collect_garbage(now_s + 60) == [layout.staged(0, "loser-1", 0)]
    assert len(run.collect_garbage(now_s + 25 * 3600)) == 2
    assert run.objects.entries("_staging") == []
