"""Merging loses no bit and no row; deleting takes the run and nothing else; both may die anywhere and be called again."""

import contextlib

import numpy as np
import pytest

from storage.errors import RunExistsError, RunMissingError, StoreError
from storage.merging import delete, merge
from storage.objects import open_objects
from storage.records import Result
from storage.run import Run
from tests.storage.faults import crash_points
from tests.storage.runs import ARRAYS, failure, make_index, make_run, results, write_all, write_unit
from tests.storage.test_commits import content

FAILED = (5, 9)


def failed_in(run, unit):
    return [image for image in FAILED if image in run.unit_rows(unit)]


@pytest.mark.parametrize("store", ["full", "channel_sum", "none"])
def test_runs_over_units_of_one_index_become_the_run_that_did_all(store):
    whole = write_all(make_run(f"memory://merge-whole-{store}", store=store, image_count=22), failed=FAILED)
    parts = [make_run(f"memory://merge-{store}-{number}", store=store, image_count=22) for number in range(2)]
    for unit in range(6):
        write_unit(parts[unit % 2], unit, failed=failed_in(whole, unit))
    merged = merge(f"memory://merged-{store}", whole.spec, parts)
    assert merged.pending() == []
    assert merged.summary().equals(whole.summary())
    assert merged.failures().equals(whole.failures())
    if store != "none":
        for spec in ARRAYS:
            assert merged.attributions(spec.group)[:].tobytes() == whole.attributions(spec.group)[:].tobytes()
    assert merged.verify().is_sound
    assert merged.record.origin == {"merged": [part.uri for part in parts]}


def test_runs_over_parts_of_an_index_are_joined_in_order_whatever_their_shards():
    index, parts = make_index(17), []
    for number, (start, stop) in enumerate([(0, 7), (7, 17)]):
        piece = index.slice(start, stop - start)
        piece = piece.set_column(0, "image", [list(range(stop - start))])
        parts.append(Run.create(f"memory://join-{number}", {}, piece, ARRAYS, 4, "full", 10))
        for unit in parts[-1].pending():
            with parts[-1].writing(unit, "a") as out:
                for result in results(parts[-1], unit):
                    out.add(result)
    merged = merge("memory://joined", {"model": "x"}, parts)
    assert merged.index["key"].to_pylist() == index["key"].to_pylist()
    assert merged.pending() == []
    maps = np.concatenate([part.attributions("grad_cam")[:] for part in parts])
    np.testing.assert_array_equal(merged.attributions("grad_cam")[:], maps)
    columns = ["prediction", "abs_sum", "convergence_delta", "target", "precision"]
    expected = [row for part in parts for row in part.summary().select(columns).to_pylist()]
    assert merged.summary().select(columns).to_pylist() == expected


def test_what_nobody_did_stays_pending_and_what_two_did_is_taken_from_the_first():
    parts = [make_run(f"memory://overlap-{number}", image_count=12) for number in range(2)]
    write_unit(parts[0], 0, salt=1)
    write_unit(parts[1], 0, salt=2)
    write_unit(parts[1], 2, salt=2)
    merged = merge("memory://overlapped", parts[0].spec, parts)
    assert merged.pending() == [1]
    np.testing.assert_array_equal(merged.attributions("grad_cam")[:4], parts[0].attributions("grad_cam")[:4])
    write_unit(parts[1], 1)
    assert merge("memory://overlapped", parts[0].spec, parts).pending() == []


def test_a_failure_of_one_method_is_carried_over():
    part = make_run("memory://one-method", image_count=4)
    with part.writing(0, "a") as out:
        for result in results(part, 0):
            if result.group == "grad_cam":
                out.fail(failure(0, method=ARRAYS[1].expression, stage="attribute"))
                columns = {name: value[1:] if np.ndim(value) else value for name, value in result.summary.items()}
                out.add(Result(result.group, result.rows[1:], result.maps[1:], columns))
            else:
                out.add(result)
    merged = merge("memory://one-method-merged", part.spec, [part])
    assert content(merged) == content(part)


def test_what_does_not_fit_is_refused():
    run = make_run("memory://fits")
    with pytest.raises(StoreError, match="differ in keep_bits"):
        merge("memory://no", {}, [run, make_run("memory://other-bits", keep_bits=5)])
    with pytest.raises(StoreError, match="not parts of one index"):
        merge("memory://no", {}, [run, make_run("memory://other-index", image_count=12)])


def test_a_merge_may_die_at_any_operation():
    parts = [make_run(f"memory://merge-crash-{number}", image_count=6) for number in range(2)]
    write_unit(parts[0], 0)
    write_unit(parts[1], 1, failed=[5])
    expected, uris = None, []

    def work(connect):
        uris.append(f"memory://merge-crashed-{len(uris)}")
        merge(uris[-1], {}, parts, connect=connect)

    for point in crash_points(work):
        merged = merge(uris[-1], {}, parts)
        expected = expected or content(merged)
        assert content(merged) == expected, point
        assert merged.verify().is_sound, point


def test_delete_takes_the_run_and_leaves_what_is_not_its_own(uri, tmp_path):
    run = write_all(make_run(uri))
    run.compact()
    run.objects.put("notes.txt", b"mine")
    delete(uri)
    assert [entry.key for entry in run.objects.entries("")] == ["notes.txt"]
    with pytest.raises(RunMissingError):
        Run.open(uri)
    with pytest.raises(RunMissingError, match="no run at"):
        delete(uri)


def test_a_deleted_run_leaves_no_folder(tmp_path):
    write_all(make_run(tmp_path / "run"))
    delete(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_deletion_may_die_at_any_operation():
    uris = []

    def work(connect):
        uris.append(f"memory://delete-crash-{len(uris)}")
        write_all(make_run(uris[-1], image_count=4))
        delete(uris[-1], connect=connect)

    for point in crash_points(work):
        with contextlib.suppress(RunMissingError):
            assert Run.open(uris[-1]).verify().is_sound, point  # either there is a whole run or there is none
        with contextlib.suppress(RunMissingError):
            delete(uris[-1])
        assert open_objects(uris[-1]).entries("") == [], point


def test_a_run_is_not_made_on_what_is_left_of_another(uri):
    run = write_all(make_run(uri))
    run.objects.delete(["run.json"])
    with pytest.raises(RunExistsError, match="delete what is left of it first"):
        make_run(uri)
    delete(uri)
    assert make_run(uri).pending() == [0, 1, 2]
