"""Promise: a run that is running is refused to others; SIGTERM finishes the commit in progress, gives back the other shards and ends with code 1; submitting again changes no bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jobs.driver import STOP_GRACE_S
from jobs.remote import STOP_WAIT_S
from storage import layout
from storage.run import Run
from tests.jobs import chaotic, tiny
from tests.jobs.test_faults import attribute, worker_of
from tests.jobs.two_nodes import TOP

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 24
METHODS = ("ig(n_steps=600)",)
FORM = {"shard_length": 2, "rows_per_pass": 2, "threads_per_worker": 1, "gpus_per_worker": 0}
PATIENCE_S = 300  # a bound against hanging; nothing here is timed


def test_a_job_leaves_time_for_the_grace_and_for_ending():
    assert STOP_GRACE_S <= STOP_WAIT_S / 2


def submit(storm, folder):
    words = ["submit", "--dataset", folder, "--model", chaotic.MODEL, "--workers", 2, "--output", storm / chaotic.RUN]
    words += [word for method in METHODS for word in ("--method", method)]
    words += [word for name, value in FORM.items() for word in ("--set", f"{name}={value}")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        chaotic.STORM: str(storm),
        "ASCRIBE_DASHBOARD": "off",
        "RAY_AUTH_TOKEN": "0" * 48,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TOP),
    }
    command = [sys.executable, "-m", "tests.jobs.chaotic", *map(str, words), "--json"]
    return subprocess.Popen(
        command, env=environment, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(look, process, what):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if answer := look():
            return answer
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"waited in vain for {what}: {process.communicate()}")


def committed(storm):
    return {path.name for path in (storm / chaotic.RUN / "commits").glob("[0-9]*.json")}


def test_a_driver_told_to_end_finishes_what_it_commits_and_gives_back_the_rest(tmp_path):
    folder = tiny.photographs(tmp_path / "photographs", IMAGES)
    storm = tmp_path / "storm"
    storm.mkdir()
    (storm / chaotic.ALLOWED).write_text("2")
    first = submit(storm, folder)
    until(lambda: len(committed(storm)) >= 2, first, "the first commits")

    second = submit(storm, folder)
    _, told = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1
    assert f"process {first.pid}" in told
    assert "--take-over" in told

    # From now on the next operation on the store, which begins a commit, takes its time; meanwhile SIGTERM comes.
    chaotic.give(storm, "worker", "slow", chaotic.Order(1, "SLOW", after=False))
    before = committed(storm)
    (storm / chaotic.ALLOWED).write_text(str(len(before) + 1))
    begun = until(lambda: chaotic.done(storm, "slow"), first, "a commit in progress")
    first.send_signal(signal.SIGTERM)
    (storm / chaotic.ALLOWED).unlink()
    out, told = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 1, told
    assert "stopped; submit again to resume" in told + out

    after = committed(storm)
    unit = begun.split(layout.STAGING + "/")[1][:6]
    assert f"{unit}.json" in after - before  # the commit in progress
    assert len(after) < IMAGES / FORM["shard_length"]
    run = Run.open(storm / chaotic.RUN)
    attempts = {unit: run.commit_of(unit).attempt for unit in run.committed()}
    assert run.verify().is_sound
    assert not (storm / chaotic.RUN / layout.LEASE).exists()

    again = submit(storm, folder)
    out, told = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, told
    assert json.loads(out)["done"] == IMAGES
    assert {unit: run.commit_of(unit).attempt for unit in attempts} == attempts  # nothing was computed twice
    direct, _ = tiny.new_run(
        folder, tmp_path / "direct", methods=METHODS, **{**FORM, "gpus_per_worker": 0.0}, keep_bits=10
    )
    worker = worker_of(direct)
    for unit in range(direct.unit_count):
        attribute(worker, direct, unit)
    assert tiny.contents(run) == tiny.contents(direct)
    assert run.verify().is_sound
