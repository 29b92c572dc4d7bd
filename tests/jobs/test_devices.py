"""A worker on a CPU uses the memory again that it has freed, instead of having the kernel zero new pages for each array."""

import os
import resource
import subprocess
import sys

import pytest

from jobs.environment import KEEP_FREED_MEMORY

FAULTS = """
import resource, threading, torch

def compute():  # as a worker does, in a thread of its own
    for round in range(12):
        torch.zeros(8, 2**20).add_(1)  # 32 MiB
        if round == 3:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

threading.Thread(target=compute).start()
"""


def faults(**settings):
    command, environment = [sys.executable, "-c", FAULTS], {**os.environ, **settings}
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_arrays_after_the_first_cost_no_fresh_pages():
    pages = 32 * 2**20 // resource.getpagesize()
    without = faults()
    if without < pages:
        pytest.skip("this C library keeps what is freed by itself")
    assert faults(**KEEP_FREED_MEMORY) < without / 4  # one more array may find no room among the freed ones
