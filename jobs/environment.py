"""Environment variables of the processes that we start. Loads nothing large, so that they can be set before anything is loaded."""

import os
from collections.abc import Mapping

KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""What a process computes best with on a core: glibc uses again what was freed, and asks for huge pages.

Else each large array comes as fresh pages, which the kernel zeroes first: a sixth of saliency's time in a worker. One arena
for all threads, since only the first can hold large arrays. It has to be there when the process starts: mallopt reaches no
arena of a thread. Huge pages take up to a tenth off a pass on a virtual machine, where small ones are looked up twice over.
"""

OWN_RAY = {
    # Ray's coming default; its warning says nothing to users.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A process that decodes is idle while the workers have enough at hand. Ray would end it after a second, and each new one
    # takes a second of a core to start: together a quarter of a short run.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Processes that Ray starts ahead have it then, and workers need not wait for others.
    **KEEP_FREED_MEMORY,
}
"""How a Ray of our own is to run, where its user hasn't said otherwise."""


def unset(settings: Mapping[str, str]) -> dict[str, str]:
    """Those that this process's user hasn't set."""
    return {name: value for name, value in settings.items() if name not in os.environ}
