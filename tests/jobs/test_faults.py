"""Promise: whatever storage operation fails, and whoever works on a shard twice, the run ends as an undisturbed one does."""

import pyarrow as pa
import pytest

from jobs.decoding import decode_piece
from jobs.events import Culprit, Piece
from jobs.worker import Worker
from storage.objects import open_objects
from storage.run import Run
from tests.jobs import tiny


class Falling:
    """Objects whose n-th operation fails; after it, or before it has any effect."""

    def __init__(self, objects, *, at, after):
        self._objects, self._left, self._after = objects, at, after
        self.fell = False

    def __getattr__(self, name):
        attribute = getattr(self._objects, name)
        if not callable(attribute) or name.startswith("_"):
            return attribute

        def operation(*arguments, **options):
            self._left -= 1
            if self._left == 0:
                self.fell = True
                if self._after:
                    attribute(*arguments, **options)
                raise ConnectionResetError("the store is gone")
            return attribute(*arguments, **options)

        return operation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.photographs(tmp_path_factory.mktemp("photographs"), 5)


def worker_of(run):
    worker = Worker(run.uri, 0.0)
    worker.ready()
    worker._record = lambda *_: None  # metrics need a process that has joined Ray
    return worker


def attribute(worker, run, unit, *, ticket=1, **piece):
    piece = Piece(unit=unit, **{"rows": run.unit_rows(unit), **piece})
    images = decode_piece(run.index.take(pa.array(piece.rows, pa.int64())), tiny.PREPROCESSING)
    keys = {row: run.index["key"][row].as_py() for row in run.unit_rows(unit)}
    return worker.attribute(ticket, piece, keys, images)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    run, _ = tiny.new_run(folder, tmp_path_factory.mktemp("undisturbed") / "run")
    worker = worker_of(run)
    assert [attribute(worker, run, unit).fault for unit in (0, 1)] == [None, None]
    return tiny.contents(run)


@pytest.mark.parametrize("after", [False, True], ids=["before-its-effect", "after-its-effect"])
def test_every_storage_operation_may_fail(folder, tmp_path, undisturbed, after):
    for at in range(1, 100):
        run, _ = tiny.new_run(folder, tmp_path / f"run{at}")
        worker = worker_of(run)
        falling = Falling(open_objects(run.uri), at=at, after=after)
        worker._run = Run(falling, falling._objects.get("run.json"))
        outcome = attribute(worker, run, 0, ticket=1)
        if not falling.fell:
            assert at > 3  # it did get through several
            break
        assert outcome.fault is None or (outcome.fault.kind, outcome.fault.stage) == ("store", "write")
        run.recover()
        fresh = worker_of(run)
        for unit in run.pending():
            assert attribute(fresh, run, unit, ticket=2).fault is None
        assert tiny.contents(run) == undisturbed, at
        assert run.verify().is_sound
        assert run.progress().done == 5
    else:
        pytest.fail("the worker never got through without meeting the fault")


def test_a_shard_done_twice_is_committed_once(folder, tmp_path, undisturbed):
    run, _ = tiny.new_run(folder, tmp_path / "run")
    first, second = worker_of(run), worker_of(run)
    for ticket, worker in ((1, first), (2, second), (3, first)):
        for unit in (0, 1):
            outcome = attribute(worker, run, unit, ticket=ticket)
            assert (outcome.fault, outcome.failures) == (None, 0)
    assert tiny.contents(run) == undisturbed
    assert len(run.summary()) == 5 * 2
    assert run.verify().is_sound


def test_a_probe_leaves_nothing_behind(folder, tmp_path):
    run, _ = tiny.new_run(folder, tmp_path / "run")
    outcome = attribute(worker_of(run), run, 0, rows=(1,), is_probe=True)
    assert outcome.fault is None
    assert run.pending() == [0, 1]


def test_culprits_become_failures_and_the_others_get_the_maps_they_would_have_had(folder, tmp_path, undisturbed):
    run, _ = tiny.new_run(folder, tmp_path / "run")
    worker = worker_of(run)
    culprit = Culprit(1, "attribute", "the worker died", 3)
    assert attribute(worker, run, 0, rows=(0, 2), culprits=(culprit,)).failures == 1
    assert attribute(worker, run, 1).fault is None
    [failure] = run.failures().to_pylist()
    assert failure == {
        "image": 1,
        "key": run.index["key"][1].as_py(),
        "method": None,
        "stage": "attribute",
        "error": "the worker died",
        "attempts": 3,
    }
    for group, whole in undisturbed.items():
        maps = run.attributions(group)[:]
        per_image = len(whole) // 5
        for image in (0, 2, 3, 4):
            assert maps[image].tobytes() == whole[image * per_image : (image + 1) * per_image]


def test_a_shard_of_culprits_alone_is_committed_without_computing(folder, tmp_path):
    run, _ = tiny.new_run(folder, tmp_path / "run")
    culprits = tuple(Culprit(row, "attribute", "dies", 3) for row in range(3))
    assert attribute(worker_of(run), run, 0, rows=(), culprits=culprits).failures == 3
    assert run.pending() == [1]


def test_an_error_of_the_model_is_a_fault_of_the_shard_and_not_of_the_worker(folder, tmp_path):
    photographs = tiny.photographs(tmp_path / "photographs", 3)
    tiny.white(photographs / "class0" / "white.png")
    run, _ = tiny.new_run(photographs, tmp_path / "run", model="tests.jobs.tiny:raising")
    worker = worker_of(run)
    faults = [attribute(worker, run, unit).fault for unit in (0, 1)]
    assert [fault and fault.error for fault in faults].count("RuntimeError: white") == 1
    assert faults.count(None) == 1


def test_other_weights_than_the_run_was_begun_with_are_refused(folder, tmp_path, monkeypatch):
    run, _ = tiny.new_run(folder, tmp_path / "run")
    monkeypatch.setattr(tiny.Tiny, "forward", tiny.Tiny.forward)
    original = tiny.model

    def other():
        model, preprocessing = original()
        model.head.bias.data += 1
        return model, preprocessing

    monkeypatch.setattr(tiny, "model", other)
    with pytest.raises(ValueError, match="put the same weights there"):
        worker_of(run)
