"""Two drivers of one run find out about each other: at once where death or life can be proven, after a minute of silence elsewhere."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import layout, lease
from storage.errors import LeaseHeldError
from storage.lease import JobHolder, Lease, ProcessHolder, Refuse, Take, Wait, acquire, decide, release, renew
from storage.records import from_json, to_json
from tests.storage.runs import make_run


@pytest.fixture
def run(uri):
    return make_run(uri, image_count=1)


ME = ProcessHolder("here", 1, "boot/5")
JOB = JobHolder("http://head:8265", "run-1")
HELD = Lease(JOB, 1000.0, "token")


@pytest.mark.parametrize(
    ("held", "now_s", "alive", "take_over", "expected"),
    [
        (None, 0, None, False, Take),
        (replace(HELD, holder=ME), 1001, True, False, Take),
        (HELD, 1001, False, False, Take),
        (HELD, 1001, True, False, Refuse),
        (HELD, 5000, True, False, Refuse),  # alive and silent: hung, maybe, but not ours to judge
        (HELD, 1001, True, True, Take),
        (HELD, 1001, None, False, Wait),
        (HELD, 1059.9, None, False, Wait),
        (HELD, 1060, None, False, Take),
        (HELD, 1001, None, True, Take),
        (HELD, 900, None, False, Wait),  # its clock is ahead of ours
    ],
)
def test_the_table_of_decisions(held, now_s, alive, take_over, expected):
    assert isinstance(decide(held, ME, now_s, alive, take_over), expected)


def test_who_renews_while_we_wait_is_alive():
    waiting = decide(HELD, ME, 1010, None, False)
    assert waiting == Wait(50, HELD)
    assert "job run-1 at http://head:8265 may be running this; waiting 50 s" in str(waiting)
    renewed = replace(HELD, renewed_s=1020.0)
    refused = decide(renewed, ME, 1060, None, False, seen=HELD)
    assert isinstance(refused, Refuse)
    assert "--take-over" in refused.reason
    assert decide(HELD, ME, 1060, None, False, seen=HELD) == Take()


@given(
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.sampled_from([None, True, False]),
    st.booleans(),
    st.sampled_from([ME, JOB]),
)
def test_waiting_ends(renewed_s, now_s, alive, take_over, holder):
    held = Lease(holder, renewed_s, "t")
    decision = decide(held, ME, now_s, alive, take_over)
    if isinstance(decision, Wait):
        assert 0 < decision.seconds <= lease.SILENCE_S
        assert isinstance(decide(held, ME, now_s + 2e9, alive, take_over, seen=held), Take)


@pytest.mark.parametrize("holder", [ME, JOB])
def test_a_lease_equals_its_round_trip(holder):
    held = Lease(holder, 12.5, "t")
    assert from_json(Lease, to_json(held)) == held


def test_a_lease_is_taken_renewed_and_released(run):
    mine = acquire(run, ME, 100.0)
    assert lease.read(run) == mine
    renewed = renew(run, mine, 110.0)
    assert lease.read(run) == renewed
    assert renewed.renewed_s == 110.0
    with pytest.raises(LeaseHeldError, match="process 1 on here is running this"):
        acquire(run, JOB, 111.0, is_alive=lambda _: True)
    release(run, renewed)
    assert run.objects.size(layout.LEASE) is None
    release(run, renewed)


def test_a_lease_taken_over_is_noticed_by_its_former_holder(run):
    mine = acquire(run, ME, 100.0)
    theirs = acquire(run, JOB, 101.0, take_over=True)
    with pytest.raises(LeaseHeldError, match="job run-1 at http://head:8265 took this run over"):
        renew(run, mine, 110.0)
    release(run, mine)
    assert lease.read(run) == theirs


def test_a_silent_holder_of_whom_nothing_is_known_is_waited_for(run):
    acquire(run, JOB, 100.0)
    waiting = acquire(run, ME, 110.0)
    assert isinstance(waiting, Wait)
    assert isinstance(acquire(run, ME, 110.0 + waiting.seconds, seen=waiting.seen), Lease)


def test_of_two_that_come_at_once_one_gets_a_free_lease():
    run, answers = make_run("memory://lease-race", image_count=1), []
    barrier = threading.Barrier(2)

    def come(name):
        barrier.wait()
        try:
            answers.append(acquire(run, ProcessHolder(name, 1, ""), 1.0, is_alive=lambda _: True))
        except LeaseHeldError:
            answers.append(None)

    threads = [threading.Thread(target=come, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer is not None for answer in answers) == 1


def test_a_process_is_proven_alive_or_dead():
    me = lease.this_process()
    assert lease.process_is_alive(me) is True
    assert lease.process_is_alive(replace(me, host="elsewhere")) is None
    assert lease.process_is_alive(JOB) is None
    assert lease.process_is_alive(replace(me, pid_start="other-boot/7")) is None
    boot = me.pid_start.partition("/")[0]
    assert lease.process_is_alive(replace(me, pid_start=f"{boot}/1")) is False  # the number was given out again


def test_a_killed_process_is_dead_before_and_after_its_parent_knows():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    holder = replace(lease.this_process(), pid=child.pid, pid_start=lease._start(child.pid))
    assert lease.process_is_alive(holder) is True
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lease.process_is_alive(holder) is False
    child.wait()
    assert lease.process_is_alive(holder) is False
