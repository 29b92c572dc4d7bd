"""Doing a run where this process is: on a Ray of its own, or on the cluster whose job this is."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import ray
import torch

from jobs.address import is_inside_job
from jobs.cluster import choose_on_cluster
from jobs.driver import Driver, Ending, Watch
from jobs.holding import hold
from jobs.overview import log_path
from jobs.planning import Device
from jobs.precision import choose_here
from jobs.progress import Bar, Display, Lines, Snapshot
from jobs.runs import open_or_create
from jobs.spec import RunSpec, SpecError
from storage.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to go about a submit, beside what the spec says."""

    take_over: bool = False
    allow_mixed: bool = False
    command: str = ""  # that replays the run
    say: Callable[[str], None] = lambda _: None
    with_bar: bool = False
    dashboard: bool = True


@dataclass(frozen=True, slots=True)
class Submitted:
    run: Run
    ending: Ending


def submit_here(spec: RunSpec, options: Options) -> Submitted:
    """Do the run, from planning to the last commit. Interrupted, it gives back what it has not committed."""
    stop = threading.Event()
    with ExitStack() as stack:
        inside = is_inside_job()
        dashboard = stack.enter_context(ray_of_job()) if inside else ""
        run, spec = open_or_create(
            spec,
            device_kind(spec, inside=inside),
            options.command,
            allow_mixed=options.allow_mixed,
            choose=choose_on_cluster if inside else choose_here,
        )
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
        if not inside:
            options.say(stack.enter_context(local_ray(dashboard=options.dashboard)))
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
def local_ray(*, dashboard: bool = True) -> Iterator[str]:
    """A Ray of this process's own; what it yields says so. Never one that happens to run on this machine."""
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # Ray's coming default; its warning says nothing to users
    context = ray.init(
        address="local",
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    url = context.dashboard_url
    try:
        yield "no --address or RAY_ADDRESS: running on this machine" + (f", dashboard http://{url}" if url else "")
    finally:
        ray.shutdown()


@contextmanager
def ray_of_job() -> Iterator[str]:
    """The cluster whose job this process is; yields the place of its dashboard."""
    # Workers search the driver's folder for modules before all else: it shall be where our own code lies, and not whichever
    # folder Ray was started in, where a `storage` or `jobs` of someone else's may lie.
    with contextlib.chdir(Path(__file__).parents[1]):
        context = ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


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
