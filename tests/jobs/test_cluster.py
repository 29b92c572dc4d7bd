"""Promise: a worker a GPU, or a core where there are none; decoding always has a place; Ray's errors are read as what they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from jobs.cluster import (
    MOST_WINDOW_BYTES,
    decode_fault,
    is_innocent,
    is_worker_loss,
    room,
    told,
    worker_environment,
)
from jobs.environment import KEEP_FREED_MEMORY, OWN_RAY
from jobs.places import AwayError
from jobs.spec import RunSpec

GIB = 2**30


def asked(**changes):
    return RunSpec(dataset="d", methods=("ig",), model="m", threads_per_worker=1, **changes)


def test_one_worker_a_gpu_and_the_cores_are_left_to_decoding():
    found = room(asked(), {"GPU": 8.0, "CPU": 32.0, "memory": 99 * GIB}, shards=100)
    assert (found.workers, found.gpus_per_worker, found.cpus_per_worker, found.decode_cpus) == (8, 1.0, 0.0, 1.0)
    assert found.ahead >= 32 // 8  # no core is idle while a GPU waits for pixels
    assert found.queue_depth > 2  # what one thread computes several write


def test_two_workers_share_a_gpu_where_asked():
    assert room(asked(gpus_per_worker=0.5), {"GPU": 2.0, "CPU": 4.0}, shards=100).workers == 4


def test_gpus_are_left_alone_where_asked():
    found = room(asked(gpus_per_worker=0), {"GPU": 2.0, "CPU": 4.0}, shards=100)
    assert (found.workers, found.gpus_per_worker) == (4, 0)


def test_one_worker_a_core_unless_memory_is_short():
    assert room(asked(), {"CPU": 16.0, "memory": 64 * GIB}, shards=100).workers == 16
    assert room(asked(), {"CPU": 16.0, "memory": 8 * GIB}, shards=100).workers == 4


def test_no_more_workers_than_shards_and_never_none():
    assert room(asked(), {"CPU": 16.0, "memory": 64 * GIB}, shards=3).workers == 3
    assert room(asked(), {}, shards=3).workers == 1


@given(st.integers(1, 64), st.integers(1, 8))
def test_decoding_fits_beside_workers_on_every_machine(cores, threads):
    """Workers take a little less than their cores: what is left places at least one decode task."""
    found = room(
        RunSpec(dataset="d", methods=("ig",), model="m", threads_per_worker=threads), {"CPU": float(cores)}, 10**6
    )
    if cores >= threads:
        left = cores - found.workers * found.cpus_per_worker
        assert left >= found.decode_cpus - 1e-9


def test_workers_on_cores_keep_freed_memory_whoever_started_ray(monkeypatch):
    on_cores, on_gpus = room(asked(), {"CPU": 2.0}, 1), room(asked(), {"GPU": 1.0, "CPU": 2.0}, 1)
    for name in KEEP_FREED_MEMORY:
        monkeypatch.delenv(name, raising=False)
    assert worker_environment(on_cores) == {"env_vars": KEEP_FREED_MEMORY}
    assert worker_environment(on_gpus) is None
    for name, value in OWN_RAY.items():  # as a Ray of our own is started, and with it this process
        monkeypatch.setenv(name, value)
    assert worker_environment(on_cores) is None


def test_the_window_is_a_share_of_the_object_store():
    assert room(asked(), {"object_store_memory": 10 * GIB}, 1).window_bytes == int(3 * GIB)
    assert room(asked(), {"object_store_memory": 1000 * GIB}, 1).window_bytes == MOST_WINDOW_BYTES
    assert room(asked(window_bytes=5), {"object_store_memory": 1000 * GIB}, 1).window_bytes == 5


@pytest.mark.parametrize(
    ("error", "kind", "stage"),
    [
        (OSError("timed out"), "raised", "read"),
        (AwayError("the store of s3://b/a.jpg does not answer: 503"), "store", "read"),
        (ValueError("odd"), "raised", "decode"),
        (ObjectLostError("ab", "addr", ""), "lost", "read"),
        (WorkerCrashedError(), "died", "decode"),
        (OutOfMemoryError("killed by the memory monitor"), "died", "decode"),
    ],
)
def test_errors_of_decode_tasks(error, kind, stage):
    fault = decode_fault(error)
    assert (fault.kind, fault.stage) == (kind, stage)
    assert "\n" not in fault.error


@pytest.mark.parametrize("error", [ActorDiedError(), ActorUnavailableError("may or may not have run", None)])
def test_dead_and_unavailable_workers_are_lost(error):
    assert is_worker_loss(error)
    assert told(error).startswith("the worker died: ")
    assert "\n" not in told(error)


def test_a_worker_that_went_with_its_machine_or_is_out_of_reach_is_innocent():
    assert is_innocent(ActorUnavailableError("may or may not have run", None))
    died = ActorDiedError()
    assert not is_innocent(died)
    died.error_msg = "The actor died because its node has died. Node Id: 1f"
    assert is_innocent(died)
    assert not is_innocent(ValueError("node has died"))


def test_an_error_of_a_task_is_no_lost_worker():
    assert not is_worker_loss(ValueError("odd"))
