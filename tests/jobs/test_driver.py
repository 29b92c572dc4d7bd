"""Promise: the driver tells the schedule what really became of a worker, and blames a shard only for a death that may be its doing."""

import logging

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from jobs import driver as module
from jobs import schedule
from jobs.driver import Driver, _Asked
from jobs.events import Attribute, Decode, Decoded, WorkerReady
from jobs.outcome import Outcome
from jobs.schedule import Policy
from jobs.worker import Report
from tests.jobs import tiny


class Silent:
    """A worker's handle that nobody answers."""

    def kill(self):
        pass


@pytest.fixture
def working(tmp_path, monkeypatch):
    """A driver with one worker that computes one shard, and what it asked that worker."""
    monkeypatch.setattr(module, "recorder", lambda *_: lambda *_: None)
    run, spec = tiny.new_run(tiny.photographs(tmp_path / "photographs", 3), tmp_path / "run")
    driver = Driver(run, spec)
    policy = Policy(workers=1, image_bytes=1, window_bytes=100)
    state = driver._state = schedule.begin(policy, [0], run.unit_rows, 0.0)
    driver._hands.workers[0] = (0, Silent())
    [decode] = [action for action in schedule.next(state, 0.0) if isinstance(action, Decode)]
    for event in (WorkerReady(0, 0), Decoded(decode.ticket)):
        schedule.observe(state, event, 0.0)
    [attribute] = [action for action in schedule.next(state, 0.0) if isinstance(action, Attribute)]
    return driver, _Asked("attribute", attribute.ticket, 0, 0, attribute.piece)


def gone_with_its_node():
    error = ActorDiedError()
    error.error_msg = "The actor died because its node has died."
    return error


@pytest.mark.parametrize(
    ("report", "phase", "charges"),
    [(ActorDiedError(), "absent", 1), (gone_with_its_node(), "absent", 0), (Report(None, 0.0), "ready", 0)],
    ids=["it died", "its node died", "it lives"],
)
def test_a_worker_out_of_reach_is_asked_again_before_anybody_is_blamed(working, report, phase, charges):
    """Ray says of a worker that just died, too, that it is unavailable."""
    driver, asked = working
    driver._hear_attribute(asked, ActorUnavailableError("connection reset", None))
    assert driver._state.slots[0].phase == "ready"
    check = _Asked("report", slot=0, generation=0, is_check=True)
    driver._hear_report(_Asked("report", slot=0, generation=0), Report(None, 0.0))  # said before it happened
    driver._hear_report(check, ActorUnavailableError("connection reset", None))
    assert driver._state.slots[0].phase == "ready"
    assert asked.ticket in driver._state.flights
    driver._hear_report(check, report)
    assert driver._state.slots[0].phase == phase
    assert asked.ticket not in driver._state.flights
    case = driver._state.cases.open[0]
    assert (case.charges, case.losses) == (charges, 1 - charges)
    assert not driver._hands.lost_calls


def test_a_report_that_gets_lost_costs_no_worker(working):
    driver, _ = working
    about = _Asked("report", slot=0, generation=0)
    driver._hear_report(about, ActorUnavailableError("connection reset", None))
    driver._hear_report(about, Report(None, 0.0))
    assert driver._state.slots[0].phase == "ready"


def test_a_shard_that_two_workers_computed_counts_once(working, caplog):
    """Near the end an idle worker takes a straggler's shard as well, and both finish it."""
    driver, asked = working
    counted = []
    driver._metric = lambda name, value: counted.append((name, value))
    twin = _Asked("attribute", asked.ticket + 1, 0, 0, asked.piece)
    with caplog.at_level(logging.INFO, "jobs.driver"):
        for about in (twin, asked):
            driver._hear_attribute(about, Outcome(ticket=about.ticket, images=3, nonfinite=2))
    assert [record.shard for record in caplog.records] == [0]
    assert counted.count(("ascribe_images_done", 3)) == counted.count(("ascribe_shards_done", 1)) == 1
    assert driver._nonfinite == 2
    assert asked.ticket not in driver._state.flights
