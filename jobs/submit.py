"""Doing a run where this process is: on a Ray of its own, or on the cluster whose job this is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.address import is_inside_job
from jobs.joining import local_ray, ray_of_job

if TYPE_CHECKING:
    from jobs.driver import Ending
    from jobs.spec import RunSpec
    from storage.run import Run


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


def submit_here(spec: RunSpec, options: Options) -> Submitted:
    """Do the run, from planning to the last commit. Interrupted, it gives back what it has not committed."""
    if is_inside_job():
        with ray_of_job() as dashboard:
            from jobs.working import begin, finish

            run, spec = begin(spec, options, inside=True)
            return finish(run, spec, options, inside=True, dashboard=dashboard, joined="")
    # Planning loads torch and the model, which takes a core as long as Ray takes to come up. Ray's processes live as long as
    # the thread that starts them: this one.
    with ThreadPoolExecutor(1, "plan") as beside:
        planned = beside.submit(_planned, spec, options)
        from jobs.datasets import may_be_found

        if not may_be_found(spec.dataset, spec.data_root):
            planned.result()  # most likely a mistake: no Ray comes up for it
        with local_ray(dashboard=options.dashboard) as joined:
            run, spec = planned.result()
            from jobs.working import finish

            return finish(run, spec, options, inside=False, dashboard="", joined=joined)


def _planned(spec: RunSpec, options: Options) -> tuple[Run, RunSpec]:
    from jobs.working import begin

    try:
        return begin(spec, options, inside=False)
    except Exception as error:  # Ray has still to come up before it can be shut down
        options.fail(error)
        raise
