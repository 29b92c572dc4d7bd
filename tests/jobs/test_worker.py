"""Promise: shards under way at once in one worker are what they are one by one, and each error says where it happened. No Ray."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from jobs.decoding import decode_piece
from jobs.events import Piece
from jobs.lanes import Landing
from jobs.worker import GPU_QUEUE_DEPTH, Worker
from tests.jobs.tiny import PREPROCESSING, contents, new_run, photographs


def silent(*_):
    return lambda *_: None


@pytest.fixture
def folder(tmp_path):
    return photographs(tmp_path / "photographs", 12)


def ready(run):
    worker = Worker(run.uri, 0.0, make_recorder=silent)
    worker.ready()
    return worker


def attribute(worker, run, unit):
    rows = run.unit_rows(unit)
    images = decode_piece(run.index.take(pa.array(rows, pa.int64())), PREPROCESSING)
    return worker.attribute(unit, Piece(unit=unit, rows=rows), {}, images)


def test_shards_under_way_at_once_change_no_bit(folder, tmp_path):
    one_by_one, at_once = (new_run(folder, tmp_path / name)[0] for name in ("one", "at-once"))
    worker = ready(one_by_one)
    outcomes = [attribute(worker, one_by_one, unit) for unit in one_by_one.pending()]
    worker = ready(at_once)
    with ThreadPoolExecutor(GPU_QUEUE_DEPTH) as calls:
        same = list(calls.map(lambda unit: attribute(worker, at_once, unit), at_once.pending()))
    assert not one_by_one.pending()
    assert not at_once.pending()
    assert contents(at_once) == contents(one_by_one)
    assert not any(np.isnan(one_by_one.attributions("saliency")[:]).flat)
    for outcome, other in zip(outcomes, same, strict=True):
        assert (outcome.fault, outcome.images, outcome.predictions) == (None, 3, other.predictions)
        assert outcome.labels == other.labels


@pytest.mark.parametrize(("said", "is_fatal"), [("CUDA error: an illegal memory access", True), ("too much", False)])
def test_what_goes_wrong_on_the_device_is_the_shards_and_not_the_stores(folder, tmp_path, monkeypatch, said, is_fatal):
    """A device says only when its results are waited for what went wrong, after the computing has been asked for."""
    run, _ = new_run(folder, tmp_path / "run")
    worker = ready(run)

    def fail(_):
        raise RuntimeError(said)

    with monkeypatch.context() as patched:
        patched.setattr(Landing, "wait", fail)
        outcome = attribute(worker, run, 0)
    assert (outcome.fault.stage, outcome.fault.kind, outcome.is_fatal) == ("attribute", "raised", is_fatal)
    assert said in outcome.fault.error
    assert 0 in run.pending()
    assert attribute(worker, run, 0).fault is None


def test_a_store_that_fails_is_no_images_fault(folder, tmp_path, monkeypatch):
    run, _ = new_run(folder, tmp_path / "run")
    worker = ready(run)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("storage.writing.commits.commit", full)
    outcome = attribute(worker, run, 0)
    assert (outcome.fault.stage, outcome.fault.kind, outcome.is_fatal) == ("write", "store", False)


def test_what_a_map_does_not_promise_is_noted_with_it(folder, tmp_path):
    asked = ('deep_lift(on_unruled="gradient")',)
    run, _ = new_run(folder, tmp_path / "run", model="tests.jobs.tiny:escaping", methods=asked)
    worker = ready(run)
    with pytest.warns(UserWarning, match="no rule of deep_lift covers"):
        outcomes = [attribute(worker, run, unit) for unit in run.pending()]
    assert all(outcome.fault is None for outcome in outcomes)
    for unit in run.committed():
        (warning,) = run.commit_of(unit).marks["warnings"]
        assert "the plain gradient passes there" in warning
