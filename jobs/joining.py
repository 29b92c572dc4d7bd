"""Joining Ray: one of this process's own, or the cluster whose job this is. Loads no torch, so that a Ray comes up meanwhile."""

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from jobs.environment import OWN_RAY, unset


@contextmanager
def local_ray(*, dashboard: bool = True) -> Iterator[str]:
    """A Ray of this process's own; what it yields says so. Never one that happens to run on this machine."""
    ours = unset(OWN_RAY)
    os.environ.update(ours)
    try:
        context = ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
        url = context.dashboard_url
        yield "no --address or RAY_ADDRESS: running on this machine" + (f", dashboard http://{url}" if url else "")
    finally:
        ray.shutdown()
        for name in ours:
            del os.environ[name]


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
