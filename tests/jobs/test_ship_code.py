"""Promise: `--ship-code` runs a checkout on machines that have nothing of ours, and no node disturbs what another one runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from commands import frame
from tests.jobs.tiny import photographs
from tests.jobs.two_nodes import TOP, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# On the head: how the unpacked code looks before and after the other node of this host got the same code.
PROBE = """
import importlib, json, os, pkgutil, ray
from jobs.joining import ray_of_job
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

def imported():
    names = []
    for top in ("storage", "commands"):
        package = importlib.import_module(top)
        names += [importlib.import_module(f"{top}.{found.name}").__file__ for found in pkgutil.iter_modules(package.__path__)]
    return names

def places():
    return {path: os.stat(path).st_ino for path in imported()}

with ray_of_job():
    before = places()
    nodes = [node["NodeID"] for node in ray.nodes()]
    elsewhere = [ray.get(ray.remote(imported).options(scheduling_strategy=On(node, soft=False)).remote()) for node in nodes]
    print("PROBED", json.dumps({"before": before, "after": places(), "elsewhere": elsewhere}))
"""

SUBMIT = """
import sys
from jobs.remote import Jobs, shipped_code
jobs = Jobs(sys.argv[1])
jobs._client.submit_job(entrypoint=sys.argv[2], runtime_env=shipped_code(), submission_id="probe-1")
jobs.follow("probe-1", lambda _: None)
print(jobs.logs("probe-1"))
"""


@pytest.fixture(scope="module")
def bare():
    """Two nodes whose Python has Ray and torch and nothing of ours, started in a checkout, which must not be taken for the code."""
    python = Path(sys._base_executable)
    others = Path(ray.__file__).parents[1]
    with two_nodes(python=python, PYTHONPATH=str(others), PATH=f"{python.parent}:/usr/bin:/bin") as running:
        yield running


def test_without_it_the_cluster_has_no_such_program(bare, tmp_path):
    asked = ["--dataset", str(tmp_path), "--model", "resnet18:random", "--method", "saliency"]
    told = bare.command("submit", *asked, "--output", str(tmp_path / "run"), "--address", bare.address)
    assert told.returncode == frame.FAILED
    assert "has no `ascribe`: install it in its image, or add --ship-code" in told.stderr


def test_the_code_is_unpacked_once_and_stays_where_it_is(bare, tmp_path):
    """Two nodes of a host share Ray's folder; what the second one unpacks must not be pulled from under the first."""
    (tmp_path / "probe.py").write_text(PROBE)
    done = subprocess.run(  # a process of its own: Ray reads its token once in a life
        [sys.executable, "-c", SUBMIT, bare.address, f"python -P {tmp_path}/probe.py"],
        cwd=TOP,
        env=bare.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("PROBED")] or [done.stdout + done.stderr]
    probed = json.loads(line.removeprefix("PROBED "))
    assert probed["before"] == probed["after"]
    assert [set(files) for files in probed["elsewhere"]] == [set(probed["before"])] * 2
    assert not any(path.startswith(str(TOP)) for path in probed["before"])


def test_a_run_of_shipped_code_ends_well(bare, tmp_path):
    folder = photographs(tmp_path / "photos", 12)
    asked = ["--dataset", str(folder), "--model", "resnet18:random", "--method", "saliency"]
    asked += ["--set", "shard_length=1", "--set", "threads_per_worker=1", "--output", str(tmp_path / "run")]
    told = bare.command("submit", *asked, "--address", bare.address, "--ship-code", "--json")
    assert told.returncode == frame.DONE, told.stdout + told.stderr
    assert "Uploading" not in told.stderr  # Ray's chatter
    status = bare.command("status", str(tmp_path / "run"), "--json")
    assert json.loads(status.stdout)["done"] == 12
