"""A store that fails for a while is waited out; what will not pass ends in one line with the way out; nothing committed is harmed."""

import errno
import os
import uuid

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from storage.errors import StoreError, StoreUnreachableError
from storage.objects import open_objects
from storage.patience import PATIENCE_S, Patient, may_pass
from storage.remote import RemoteObjects
from storage.run import Run
from tests.storage.faults import Faulty
from tests.storage.runs import make_run, write_all, write_unit
from tests.storage.test_commits import content
from tests.storage.unreliable import Unreliable, before


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def patient(fault, uri, clock):
    """A store whose faults Patient sees, below it as the real ones are."""
    below = open_objects(uri)._objects
    return Patient(Faulty(below, fault), clock=clock, sleep=clock.sleep)


def message_of(act):
    """What a failing act says, None where it does not fail."""
    try:
        act()
    except StoreError as error:
        return None if isinstance(error, StoreUnreachableError) else str(error)
    return None


AWAY = OSError(errno.EIO, "Input/output error")
LOST = GenericError("error sending request: connection refused")
FULL = OSError(errno.ENOSPC, "No space left on device")
FORBIDDEN = PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("error", [AWAY, LOST])
def test_a_store_away_for_a_minute_is_waited_for(error):
    place = f"memory://minute-{uuid.uuid4().hex}"
    make_run(place)
    clock = Clock()

    def away(_, verb, key):
        if clock.now < 60:
            raise error

    run = Run.open(place, connect=lambda uri: patient(away, uri, clock))
    assert 60 <= clock.now < 75
    assert write_unit(run, 0).won


@pytest.mark.parametrize("error", [AWAY, LOST])
def test_a_store_away_for_good_ends_with_the_reason(error):
    make_run("memory://for-good")
    clock = Clock()

    def away(_, verb, key):
        raise error

    with pytest.raises(StoreUnreachableError, match=r"cannot read .*run\.json for 120 s: .*; submit again to resume"):
        Run.open("memory://for-good", connect=lambda uri: patient(away, uri, clock))
    assert PATIENCE_S <= clock.now < PATIENCE_S + 15


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (FULL, "free some space and submit again to resume"),
        (FORBIDDEN, "check the rights and the credentials in the environment"),
        (PermissionDeniedError("403 Forbidden"), "check the rights and the credentials"),
        (OSError(errno.EROFS, "Read-only file system"), "nothing committed was harmed"),
    ],
)
def test_what_does_not_pass_is_said_at_once_and_harms_nothing(error, way_out):
    """Fail so at every operation in turn; then submit again on the mended store."""
    number, done = 0, False
    expected = content(write_all(make_run("memory://at-once-whole", image_count=8)))
    while not done:
        uri = f"memory://at-once-{uuid.uuid4().hex}"
        make_run(uri, image_count=8)
        clock = Clock()

        def fail(count, verb, key, number=number):
            if count >= number:
                raise error

        message = message_of(lambda: write_unit(Run.open(uri, connect=lambda uri: patient(fail, uri, clock)), 0))  # noqa: B023  # called at once
        done = message is None
        assert done or way_out in message
        assert done or "\n" not in message
        assert clock.now == 0
        run = Run.open(uri)
        run.recover()
        write_all(run)
        assert content(run) == expected
        number += 4 if number > 8 else 1
    assert number > 15


def test_pauses_grow_and_are_not_in_step():
    clock, pauses = Clock(), []

    def away(_, verb, key):
        raise LOST

    def sleep(seconds):
        pauses.append(seconds)
        clock.sleep(seconds)

    objects = Patient(Faulty(open_objects("memory://pauses"), away), clock=clock, sleep=sleep)
    with pytest.raises(StoreUnreachableError):
        objects.entries("x")
    assert pauses[0] <= 0.2
    assert max(pauses) <= 10
    assert sum(pauses[-3:]) > 10 * sum(pauses[:3])
    assert len(set(pauses)) == len(pauses)


def test_a_transient_fault_at_every_operation_changes_nothing():
    """Each operation fails once before and once after it was carried out: both are repeated."""
    clock, seen = Clock(), set()

    def hiccup(count, verb, key):
        if (verb, key) not in seen:
            seen.add((verb, key))
            raise AWAY

    make_run("memory://hiccups")
    run = Run.open("memory://hiccups", connect=lambda uri: patient(hiccup, uri, clock))
    write_all(run, failed=[5])
    run.compact()
    expected = write_all(make_run("memory://no-hiccups"), failed=[5])
    assert content(Run.open("memory://hiccups")) == content(expected)
    assert Run.open("memory://hiccups").verify().is_sound
    assert len(seen) > 50


def test_a_real_full_disk_and_a_real_lost_right_are_told_apart(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    for error, way_out in [(FULL, "free some space"), (FORBIDDEN, "check the rights")]:

        def refuse(*arguments, error=error):
            raise error

        with monkeypatch.context() as broken:
            broken.setattr("storage.local.os.link", refuse)
            with pytest.raises(StoreError, match=way_out):
                write_unit(run, 0)
        assert [entry.key for entry in run.objects.entries("_staging") if "partial" in entry.key] == []
    assert write_all(run).verify().is_sound


def test_a_run_on_an_s3_that_answers_500_loses_answers_and_hangs_up_is_the_undisturbed_run(s3, monkeypatch):
    class Handler(Unreliable):
        pass

    with before(os.environ["AWS_ENDPOINT_URL"], Handler) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        uri = f"{s3}/unreliable/{os.getpid()}"
        run = make_run(uri)
        run.recover()
        write_all(run, failed=[5])
        run.compact()
        expected = content(write_all(make_run("memory://reliable"), failed=[5]))
        assert content(run) == expected
        assert run.verify().is_sound
        assert Handler.count > 100


def test_what_may_pass():
    assert may_pass(LOST)
    assert may_pass(AWAY)
    for error in (FULL, FORBIDDEN, PermissionDeniedError("no"), GenericError("NoSuchBucket")):
        assert not may_pass(error)


def test_a_bucket_that_is_not_there_is_said_at_once(s3):
    objects = Patient(RemoteObjects("s3://no-such-bucket-here/run"), patience_s=0)
    with pytest.raises(StoreError, match="s3://no-such-bucket-here/run"):
        objects.put("a", b"")
