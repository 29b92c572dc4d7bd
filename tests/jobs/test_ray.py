"""Promise: on a real Ray, whatever dies, a run ends with the maps of an undisturbed one. One small cluster serves all of it."""

import dataclasses
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from jobs.cluster import Handle, Room, collect
from jobs.driver import Driver, Watch
from jobs.environment import KEEP_FREED_MEMORY
from jobs.retry import Limits
from storage.run import Run
from tests.jobs import tiny

pytestmark = pytest.mark.ray

IMAGES = 10


class Watched(Driver):
    """Tells a test when a worker is ready and when a shard is committed; begins when `workers` are ready."""

    def __init__(self, *arguments, workers=1, on_ready=None, on_done=None, **options):
        super().__init__(*arguments, **options)
        self.on_ready, self.on_done = on_ready, on_done
        self.workers, self.waiting = workers, []
        self.pids = []
        self.done = []

    def _hear_ready(self, about, answer):
        self.waiting.append((about, answer))
        if len(self.waiting) >= self.workers:
            for each in self.waiting:
                super()._hear_ready(*each)
            self.waiting, self.workers = [], 1
        if isinstance(answer, dict):
            self.pids.append(answer["pid"])
            if self.on_ready:
                self.on_ready(self)

    def _hear_done(self, about, outcome):
        super()._hear_done(about, outcome)
        if not about.piece.is_probe:
            self.done.append(about.piece.unit)
            if self.on_done:
                self.on_done(self)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.photographs(tmp_path_factory.mktemp("photographs"), IMAGES)


@pytest.fixture(scope="module")
def undisturbed(cluster, folder, tmp_path_factory):
    run, spec = tiny.new_run(folder, tmp_path_factory.mktemp("undisturbed") / "run")
    seen = []
    ending = Driver(run, spec, Watch(show=seen.append)).drive()
    assert ending.how == "finished"
    assert (seen[-1].done, seen[-1].failed, seen[-1].workers) == (IMAGES, 0, 1)
    return tiny.contents(run)


def is_whole(run, undisturbed):
    assert tiny.contents(run) == undisturbed
    assert run.verify().is_sound
    assert (run.progress().done, run.progress().failed) == (IMAGES, 0)
    assert sorted(run.summary()["image"].to_pylist()) == sorted([*range(IMAGES)] * 2)


def test_two_workers_and_a_shuffled_order_change_no_bit(cluster, folder, tmp_path, undisturbed, monkeypatch):
    run, spec = tiny.new_run(folder, tmp_path / "run", workers=2)
    units = run.pending()
    random.Random(1).shuffle(units)
    environments = []

    def look(driver):
        environments.append(Path(f"/proc/{driver.pids[-1]}/environ").read_text().split("\0"))

    driver = Watched(run, spec, workers=2, on_ready=look)
    with monkeypatch.context() as patch:
        patch.delattr(Run, "index")  # a driver never holds the whole index: of 1.3 million images it is 200 MB
        assert driver.drive(units).how == "finished"
    assert len(driver.pids) == 2
    kept = {f"{name}={value}" for name, value in KEEP_FREED_MEMORY.items()}
    assert all(kept <= set(environment) for environment in environments)
    is_whole(run, undisturbed)


def test_a_stopped_run_resumes_with_what_was_not_committed(cluster, folder, tmp_path, undisturbed):
    run, spec = tiny.new_run(folder, tmp_path / "run")
    stop = threading.Event()
    first = Watched(run, spec, stop=stop, on_done=lambda _: stop.set())
    assert first.drive().how == "stopped"
    committed = run.committed()
    assert 0 < len(committed) <= run.unit_count
    second = Watched(Run.open(run.uri), spec)
    assert second.drive().how == "finished"
    assert not committed & set(second.done)
    assert committed | set(second.done) == set(range(run.unit_count))
    is_whole(run, undisturbed)


def test_a_worker_killed_is_replaced_and_no_bit_changes(cluster, folder, tmp_path, undisturbed):
    run, spec = tiny.new_run(folder, tmp_path / "run")

    def kill_first(driver):
        if len(driver.pids) == 1:
            os.kill(driver.pids[0], signal.SIGKILL)

    driver = Watched(run, spec, on_ready=kill_first)
    assert driver.drive().how == "finished"
    assert len(driver.pids) == 2
    is_whole(run, undisturbed)


@pytest.mark.parametrize("model", ["raising", "deadly"])
def test_an_image_that_fells_its_shard_is_found_and_the_others_are_done(cluster, tmp_path, model):
    photographs = tiny.photographs(tmp_path / "photographs", 3)
    tiny.white(photographs / "class0" / "white.png")
    run, spec = tiny.new_run(photographs, tmp_path / "run", model=f"tests.jobs.tiny:{model}", shard_length=4)
    ending = Driver(run, spec, limits=Limits(attempts=1, probe_attempts=1)).drive()
    assert ending.how == "finished"
    [failure] = run.failures().to_pylist()
    assert failure["key"].endswith("white.png")
    assert failure["stage"] == "attribute"
    assert (run.progress().done, run.progress().failed) == (3, 1)


def test_a_run_that_cannot_succeed_says_why(cluster, folder, tmp_path):
    run, spec = tiny.new_run(folder, tmp_path / "run")
    (tmp_path / "run" / "index.parquet").rename(tmp_path / "run" / "elsewhere.parquet")
    index = Run.open(run.uri)
    driver = Driver(index, dataclasses.replace(spec, max_failures=0))
    with pytest.raises(ValueError, match=r"index\.parquet"):
        driver.drive()


def test_a_model_that_knows_nothing_of_the_labels_is_doubted_once(cluster, tmp_path):
    photographs = tiny.photographs(tmp_path / "photographs", 120)
    run, spec = tiny.new_run(photographs, tmp_path / "run", methods=("saliency",), shard_length=20)
    warnings = []
    assert Driver(run, spec, Watch(warn=warnings.append)).drive().how == "finished"
    [warning] = warnings
    assert "near chance" in warning


def test_too_many_failures_end_the_run(cluster, tmp_path):
    photographs = tiny.photographs(tmp_path / "photographs", 2)
    for number in range(3):
        (photographs / "class0" / f"a{number}.png").write_bytes(b"no picture")
    run, spec = tiny.new_run(photographs, tmp_path / "run", max_failures=1, shard_length=1)
    ending = Driver(run, spec).drive()
    assert ending.how == "aborted"
    assert "--max-failures 1" in ending.reason


def test_each_worker_sees_a_gpu_of_its_own(cluster, folder, tmp_path):
    """The GPUs are pretended; which of them a worker sees is Ray's own doing."""
    run, _ = tiny.new_run(folder, tmp_path / "run")
    room = Room(workers=2, gpus_per_worker=1.0, cpus_per_worker=0.0, decode_cpus=1.0, window_bytes=1, decodes=1)
    handles = [Handle(run.uri, f"test-{slot}-{os.getpid()}", room) for slot in range(2)]
    try:
        told = [collect(handle.call("ready")) for handle in handles]
        assert sorted(each["gpus"] for each in told) == ["0", "1"]
    finally:
        for handle in handles:
            handle.kill()
