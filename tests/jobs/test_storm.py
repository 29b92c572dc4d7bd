"""Promise: whatever happens to a run, submitting again ends with the undisturbed run, no image lost and none twice: the chaos command, small."""

import json
import subprocess
import sys

import pytest

from tests.jobs.two_nodes import TOP

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def chaos(folder, *words):
    command = [sys.executable, TOP / "benchmarks" / "chaos.py", "--folder", folder, "--json", *words]
    return subprocess.run([*map(str, command)], cwd=TOP, capture_output=True, text=True, check=False)


def test_faults_of_every_process_end_with_the_undisturbed_run(tmp_path):
    kinds = ("kill_worker", "kill_driver", "remove_node", "fail_in_worker", "wake_zombie")
    done = chaos(tmp_path, "--faults", len(kinds), *(word for kind in kinds for word in ("--kind", kind)))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert sum(found["faults"].values()) == len(found["faults"]) == len(kinds)
    assert found["endings"]["killed"] >= 1
    assert found["endings"]["finished"] == 1
    assert (found["done"], found["failed"], found["rows"]) == (found["images"], 0, 2 * found["images"])
    assert found["equal to the undisturbed run"]


def test_calls_that_ray_loses_end_with_the_undisturbed_run(tmp_path):
    """Requests, answers and calls under way: the run completes, or ends with its reason and completes when submitted again."""
    done = chaos(tmp_path, "--faults", 1, "--kind", "kill_worker", "--rpc-failures", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["endings"]["finished"] == 1
    assert found["equal to the undisturbed run"]
