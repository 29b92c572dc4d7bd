"""A worker on a CPU uses the memory again that it has freed, instead of having the kernel zero new pages for each array."""

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from jobs.devices import keep_freed_memory
{keep}
for round in range(12):
    torch.zeros(8, 2**20).add_(1)  # 32 MiB
    if round == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    told = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_arrays_after_the_first_cost_no_fresh_pages():
    pages = 32 * 2**20 // resource.getpagesize()
    without = faults("")
    if without < pages:
        pytest.skip("this C library keeps what is freed by itself")
    assert faults("keep_freed_memory()") < without / 4  # one more array may find no room among the freed ones
