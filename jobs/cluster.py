"""What the driver asks of Ray: how much room there is, workers, decode tasks, and errors read as faults."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
)

from jobs.decoding import decode
from jobs.environment import KEEP_FREED_MEMORY, unset
from jobs.outcome import one_line
from jobs.places import AwayError
from jobs.precision import Choice, choose_here
from jobs.retry import Fault
from jobs.spec import Device, RunSpec
from jobs.worker import GPU_QUEUE_DEPTH, Worker

WORKER_MEMORY_BYTES = 2 * 2**30  # torch, a model and a shard: more workers than this allows would start to swap
WINDOW_SHARE = 0.3  # of the object store, for decoded images
MOST_WINDOW_BYTES = 8 * 2**30
GPU_DECODES = 16  # at once for one GPU, as far as there are cores: it explains faster than any core decodes
DECODE_CPUS = 0.1  # beside workers that take the cores: enough to keep decoding off machines with no cores to give


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the cluster has for a run."""

    workers: int
    gpus_per_worker: float
    cpus_per_worker: float
    decode_cpus: float
    window_bytes: int
    decodes: int  # at once
    ahead: int = 0  # shards decoded or in decoding beyond what workers hold, at least so many for each
    queue_depth: int = 2  # shards that a worker holds: one computed, one written or at hand


def room(spec: RunSpec, resources: dict[str, float], shards: int) -> Room:
    """One worker a GPU where there are GPUs, one a core (less where memory is short) where there are none."""
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    gpus_each = spec.gpus_per_worker if spec.gpus_per_worker is not None else float(gpus > 0)
    if gpus_each > 0:
        fitting = math.floor(gpus / gpus_each)
        cpus_each, decode_cpus = 0.0, 1.0  # the GPU decides where a worker goes; cores are for decoding
    else:
        threads = spec.resolved("threads_per_worker")
        fitting = math.floor(min(cpus / threads, resources.get("memory", math.inf) / WORKER_MEMORY_BYTES))
        cpus_each, decode_cpus = threads - DECODE_CPUS, DECODE_CPUS
    workers = spec.workers or max(1, min(fitting, shards))
    window = min(MOST_WINDOW_BYTES, int(WINDOW_SHARE * resources.get("object_store_memory", 2**30)))
    return Room(
        workers=workers,
        gpus_per_worker=gpus_each,
        cpus_per_worker=cpus_each,
        decode_cpus=decode_cpus,
        window_bytes=spec.window_bytes or window,
        # Where workers take the cores, decoding is the small part of the work: a process a shard would only crowd them out,
        # and starting one takes a second of a core while they start.
        decodes=1000 if gpus_each > 0 else max(1, workers // 2),
        ahead=GPU_DECODES if gpus_each > 0 else 0,
        queue_depth=GPU_QUEUE_DEPTH if gpus_each > 0 else 2,
    )


def decode_task(cpus: float) -> Any:
    return ray.remote(
        num_returns=2,
        num_cpus=cpus,
        num_gpus=0,
        max_retries=3,
        retry_exceptions=[OSError],
        # Ray no longer hides GPUs from tasks without one, and a CUDA context costs hundreds of MB.
        runtime_env={"env_vars": {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}},
    )(decode)  # found by its module, which loads no torch: decoding starts in a second and stays small


def choose_on_cluster(device: Device, spec: RunSpec, *asked: Any) -> Choice:
    """The run's precision, chosen where a worker would be: a job's driver may stand where there is no GPU, or other cores."""
    gpus, cpus = (spec.gpus_per_worker or 1.0, 0) if device == "cuda" else (0, 1)
    # A process of its own, so that its CUDA context is gone when workers come.
    trial = ray.remote(num_gpus=gpus, num_cpus=cpus, max_calls=1)(choose_here)
    choice: Choice = ray.get(trial.remote(device, spec, *asked))
    return choice


def worker_environment(room: Room) -> dict[str, Any] | None:
    """What a worker's process has to be started with; nothing where Ray itself was, so that one that it keeps ready will do."""
    missing = unset(KEEP_FREED_MEMORY)
    return {"env_vars": missing} if missing and not room.gpus_per_worker else None


class Handle:
    """A worker actor as the driver holds it."""

    def __init__(self, uri: str, name: str, room: Room) -> None:
        actor = ray.remote(concurrency_groups={"work": room.queue_depth, "report": 1})(Worker)
        self._actor = actor.options(
            name=name,
            num_cpus=room.cpus_per_worker,
            num_gpus=room.gpus_per_worker,
            max_restarts=0,  # a dead worker is replaced by a new one with a new name
            max_task_retries=0,  # and what it did is the schedule's to decide
            runtime_env=worker_environment(room),
        ).remote(uri, room.gpus_per_worker)

    def call(self, method: str, *arguments: Any) -> Any:
        group = "work" if method in {"ready", "attribute"} else "report"
        return getattr(self._actor, method).options(concurrency_group=group).remote(*arguments)

    def kill(self) -> None:
        ray.kill(self._actor, no_restart=True)


def collect(ref: Any) -> Any:
    """A small answer that is there, or the error it ended with, as a value."""
    try:
        return ray.get(ref, timeout=60)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except (RayError, GetTimeoutError) as error:
        return error


def is_worker_loss(error: Exception) -> bool:
    """Died, or unavailable, when the call may or may not have run: either way another worker takes over."""
    return isinstance(error, RayActorError)


def is_innocent(error: Exception) -> bool:
    """Whether a worker went through no doing of its own: it can't be reached for now, or its whole machine is gone."""
    if isinstance(error, ActorUnavailableError):
        return True
    return isinstance(error, RayActorError) and (error.preempted or "node has died" in str(error))


def decode_fault(error: Exception) -> Fault:
    if isinstance(error, ObjectLostError | OwnerDiedError):
        return Fault("lost", "read", told(error))
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return Fault("died", "decode", told(error))
    if isinstance(error, AwayError):  # waited for already, and no image's fault
        return Fault("store", "read", told(error))
    return Fault("raised", "read" if isinstance(error, OSError) else "decode", told(error))


def told(error: Exception) -> str:
    """Ray's errors are paragraphs; one line of them is kept."""
    if isinstance(error, RayActorError):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = [
            line for line in lines if "exit" in line.lower() or "killed" in line.lower() or "node" in line.lower()
        ]
        return f"the worker died: {(reasons or lines or ['no reason given'])[-1]}"[:500]
    return one_line(error)


def ready(refs: Sequence[Any], timeout_s: float) -> list[Any]:
    """Those of the answers that are there, after waiting for a first one; nothing is fetched."""
    if not refs:
        return []
    done, _ = ray.wait(list(refs), num_returns=1, timeout=timeout_s, fetch_local=False)
    if done:
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0, fetch_local=False)
    return list(done)
