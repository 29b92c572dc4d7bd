"""Doing a run where this process is: on a Ray of its own, or on the cluster whose job this is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from jobs.address import is_inside_job
from jobs.joining import local_ray, ray_of_job

if TYPE_CHECKING:
    from jobs.driver import Ending
    from jobs.spec import RunSpec
    from storage.run import Run


HEAD_START_S = 0.25
"""For Ray, which has started its first process by then and waits for it: torch, as it loads, keeps others from running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to go about a submit, beside what the spec says."""

    take_over: bool = False
    allow_mixed: bool = False
    command: str = ""  # that replays the run
    say: Callable[[str], None] = lambda _: None
    # Told of what ends a plan as soon as it is known; it is raised as well.
    fail: Callable[[Exception], None] = lambda _: None
    with_bar: bool = False
    dashboard: bool = True


@dataclass(frozen=True, slots=True)
class Submitted:
    run: Run
    ending: Ending


Settle: TypeAlias = "Callable[[RunSpec], RunSpec]"


def submit_here(spec: RunSpec, options: Options, settle: Settle = lambda spec: spec) -> Submitted:
    """Do the run, from planning to the last commit. Interrupted, it gives back what it has not committed.

    `settle` decides what the spec leaves open without a look at data or weights, which takes torch.
    """
    if is_inside_job():
        with ray_of_job() as dashboard:
            from jobs.working import begin, finish

            run, spec = begin(settle(spec), options, inside=True)
            return finish(run, spec, options, inside=True, dashboard=dashboard, joined="")
    # Planning loads torch and the model, which takes a core as long as Ray takes to come up. Ray's processes live as long as
    # the thread that starts them: this one.
    with ThreadPoolExecutor(1, "plan") as beside:
        planned = beside.submit(_planned, spec, options, settle)
        with _ray_beside(planned, dashboard=options.dashboard) as joined:
            run, spec = planned.result()
            from jobs.working import finish

            return finish(run, spec, options, inside=False, dashboard="", joined=joined)


def _planned(spec: RunSpec, options: Options, settle: Settle) -> tuple[Run, RunSpec]:
    time.sleep(HEAD_START_S)
    from jobs.working import begin

    try:
        return begin(settle(spec), options, inside=False)
    except Exception as error:  # while Ray comes up, which this need not wait for
        options.fail(error)
        raise


@contextmanager
def _ray_beside(planned: Future[Any], *, dashboard: bool) -> Iterator[str]:
    """A Ray of our own. It takes seconds to come up: where the plan fails meanwhile, its error ends that.

    Ray's processes end with the thread that has started them.
    """
    own, lock, is_up = threading.get_ident(), threading.Lock(), threading.Event()

    def interrupt(planned: Future[Any]) -> None:
        with lock:
            if planned.exception() is not None and not is_up.is_set():
                signal.pthread_kill(own, signal.SIGINT)

    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and is not ignored, as under nohup
    if raises and own == threading.main_thread().ident:
        planned.add_done_callback(interrupt)
    try:
        with local_ray(dashboard=dashboard) as joined:
            with lock:
                is_up.set()
            yield joined
    except KeyboardInterrupt:
        if planned.done() and (error := planned.exception()) is not None:
            raise error from None
        raise
