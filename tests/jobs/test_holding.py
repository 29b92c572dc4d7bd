"""Promise: a run that is being worked on is refused to others with the way out, one whose holder is dead is taken at once."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from jobs import holding
from jobs.holding import cancel, hold, state, this_holder
from storage import lease
from storage.errors import LeaseHeldError, StoreError
from storage.lease import JobHolder, ProcessHolder
from tests.jobs import tiny


@pytest.fixture
def run(tmp_path):
    return tiny.new_run(tiny.photographs(tmp_path / "photographs", 2), tmp_path / "run")[0]


@pytest.fixture
def other():
    """Another process, as the lease knows it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    me = lease.this_process()
    yield process, ProcessHolder(me.host, process.pid, lease._start(process.pid))
    process.kill()
    process.wait()


def held_by(run, holder):
    return lease.acquire(run, holder, time.time())


def test_a_run_is_ours_within_the_block_only(run):
    with hold(run, say=pytest.fail, stop=threading.Event()):
        assert lease.read(run).holder == lease.this_process()
        assert state(run, time.time()) == "running"
    assert lease.read(run) is None
    assert state(run, time.time()) == "unfinished"


def test_a_living_holder_is_left_alone_unless_taken_over(run, other):
    held_by(run, other[1])
    with (
        pytest.raises(LeaseHeldError, match=r"cancel, or submit with --take-over"),
        hold(run, say=print, stop=threading.Event()),
    ):
        pytest.fail("it was not ours")
    with hold(run, take_over=True, say=print, stop=threading.Event()):
        assert lease.read(run).holder == lease.this_process()


def test_a_dead_holder_is_taken_over_at_once(run, other):
    process, holder = other
    held_by(run, holder)
    process.kill()
    process.wait()
    assert state(run, time.time()) == "unfinished"
    with hold(run, say=pytest.fail, stop=threading.Event()):
        pass


def test_a_driver_that_lost_its_run_stops(run, other):
    stop, told = threading.Event(), []
    with hold(run, say=told.append, stop=stop) as ours:
        lease.acquire(run, other[1], time.time(), take_over=True)
        ours.renew(ours.renewed_at + 1.0)
        assert not stop.is_set()  # only now and then is the lease looked at
        ours.renew(ours.renewed_at + lease.RENEW_S)
        assert stop.is_set()
        assert "took this run over" in told[0]
    assert lease.read(run).holder == other[1]  # and it is not ours to release


def test_cancel_asks_the_holder(run, other):
    process, holder = other
    held_by(run, holder)
    assert str(process.pid) in cancel(run)
    assert process.wait(timeout=60) == -signal.SIGTERM
    with pytest.raises(StoreError, match="not alive here"):
        cancel(run)


def test_inside_a_job_the_job_is_the_holder(monkeypatch):
    assert isinstance(this_holder(""), ProcessHolder)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "run-1"}}))
    assert this_holder("10.0.0.1:8265") == JobHolder("http://10.0.0.1:8265", "run-1")


def test_of_a_job_whose_cluster_does_not_answer_nothing_is_known():
    assert holding.is_alive(JobHolder("http://127.0.0.1:9", "run-1")) is None


def test_a_clusters_job_is_cancelled_through_the_address_that_we_know(run, monkeypatch):
    """What the lease names is the cluster's own address; ours is often a port-forward."""
    asked = []

    class Cluster:
        def __init__(self, address):
            self.address = address

        def cancel(self, submission_id):
            asked.append((self.address, submission_id))

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    held_by(run, JobHolder("http://127.0.0.1:9", "demo-1"))
    with pytest.raises(StoreError, match=r"not reached .*: cli\.py cancel demo-1 --address http://HEAD:8265"):
        cancel(run)
    monkeypatch.setattr(holding, "Jobs", Cluster)
    assert cancel(run) == "job demo-1 at http://127.0.0.1:9"
    monkeypatch.setenv("RAY_ADDRESS", "http://forwarded:8265")
    cancel(run)
    assert asked == [("http://127.0.0.1:9", "demo-1"), ("http://forwarded:8265", "demo-1")]
