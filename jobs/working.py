"""A run from its plan to its last commit."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import ray
import torch

from jobs.cluster import choose_on_cluster
from jobs.driver import Driver, Ending, Watch
from jobs.holding import hold
from jobs.overview import log_path
from jobs.precision import Choice, choose_here
from jobs.progress import Bar, Display, Lines, Snapshot
from jobs.runs import open_or_create
from jobs.spec import Device, RunSpec, SpecError
from jobs.submit import Options, Submitted
from storage.run import Run

logger = logging.getLogger(__name__)


def begin(spec: RunSpec, options: Options, *, inside: bool) -> tuple[Run, RunSpec]:
    """The run that is asked for, planned unless it is there, and its spec with nothing open."""

    def choose(*asked: Any) -> Choice:
        options.say("choosing the precision that this run computes in")
        return (choose_on_cluster if inside else choose_here)(*asked)

    return open_or_create(
        spec,
        device_kind(spec, inside=inside),
        options.command,
        allow_mixed=options.allow_mixed,
        choose=choose,
    )


def finish(run: Run, spec: RunSpec, options: Options, *, inside: bool, dashboard: str, joined: str) -> Submitted:
    """Work on what is pending, in a process that has joined Ray. Interrupted, it gives back what it has not committed."""
    stop = threading.Event()
    with ExitStack() as stack:
        options.say(f"run {run.spec['run_id']}: {run.image_count} images in {run.unit_count} shards, in {run.uri}")
        stack.enter_context(logged(run.uri, inside=inside))
        held = stack.enter_context(
            hold(run, dashboard=dashboard, take_over=options.take_over, say=options.say, stop=stop)
        )
        if not (pending := run.pending()):
            run.recover()
            run.compact()
            return Submitted(run, Ending("finished"))
        if len(pending) < run.unit_count:
            options.say(f"resuming: {run.unit_count - len(pending)} of {run.unit_count} shards are there")
        if joined:
            options.say(joined)
        # After ray.init, which sets a handler of its own.
        stack.enter_context(stopped_by_signals(stop))
        display: Display = Bar() if options.with_bar else Lines(Snapshot.line if inside else Snapshot.sentence)
        stack.enter_context(display)
        watch = Watch(show=display.show, warn=options.say, tick=held.renew)
        return Submitted(run, Driver(run, spec, watch, stop).drive(pending))


def device_kind(spec: RunSpec, *, inside: bool) -> Device:
    if spec.gpus_per_worker is not None:
        return "cuda" if spec.gpus_per_worker > 0 else "cpu"
    if not inside:
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = ray.cluster_resources()
    if not there.get("GPU", 0) and not there.get(
        "CPU", 0
    ):  # whichever we took for granted would fix the run's identity
        raise SpecError(
            "the cluster has neither GPUs nor cores yet, since it grows on demand: say what to demand, as in "
            "--workers 8 --set gpus_per_worker=1 (0 for cores)"
        )
    return "cuda" if there.get("GPU", 0) else "cpu"


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C ask the driver to stop; a second Ctrl-C ends at once."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logged(uri: str, *, inside: bool) -> Iterator[None]:
    """A line per shard and per event: beside the run where that is a folder, and in a job's own log, which the dashboard shows."""
    path = log_path(uri)
    handlers: list[logging.Handler] = [] if path is None else [logging.FileHandler(path)]
    if inside or path is None:
        handlers.append(logging.StreamHandler())
    root = logging.getLogger("jobs")
    level, propagate = root.level, root.propagate
    for handler in handlers:
        handler.setFormatter(FieldsFormatter())
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        yield
    finally:
        root.setLevel(level)
        root.propagate = propagate
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class FieldsFormatter(logging.Formatter):
    """Event first, then its fields: `12:03:55 shard committed shard=3 images=32`."""

    _known = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        own = {name: value for name, value in record.__dict__.items() if name not in self._known}
        fields = {
            name: value for name, value in own.items() if not name.startswith("_ray")
        }  # Ray adds its own to every record
        told = " ".join(
            f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in fields.items()
        )
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{moment} {record.levelname.lower()} {record.getMessage()} {told}".rstrip()
