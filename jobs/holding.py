"""Holding a run while this process works on it, and ending whoever holds it, wherever that one runs."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.address import AddressError, address_from_environment
from jobs.remote import TERMINAL, Jobs
from storage import lease
from storage.errors import LeaseHeldError, StoreError
from storage.lease import Holder, JobHolder, Lease, ProcessHolder, Wait
from storage.run import Run


@dataclass(slots=True)
class Hold:
    """Our claim on a run; `renew` is called often and acts now and then."""

    run: Run
    mine: Lease
    stop: threading.Event
    say: Callable[[str], None]
    renewed_at: float = 0.0

    def renew(self, now: float) -> None:
        if now - self.renewed_at < lease.RENEW_S:
            return
        self.renewed_at = now
        try:
            self.mine = lease.renew(self.run, self.mine, time.time())
        except LeaseHeldError as error:  # the commits keep both correct, but one of the two works in vain
            self.say(str(error))
            self.stop.set()


@contextmanager
def hold(
    run: Run, *, dashboard: str = "", take_over: bool = False, say: Callable[[str], None], stop: threading.Event
) -> Iterator[Hold]:
    """The run is ours until the block is left; refused while another driver is at work on it."""
    me, seen = this_holder(dashboard), None
    while isinstance(answer := lease.acquire(run, me, time.time(), take_over, seen=seen, is_alive=is_alive), Wait):
        say(str(answer))
        time.sleep(answer.seconds)
        seen = answer.seen
    held = Hold(run, answer, stop, say, time.monotonic())
    try:
        yield held
    finally:
        lease.release(run, held.mine)


def this_holder(dashboard: str) -> Holder:
    """A Ray job where this process is one's entrypoint, and the process itself elsewhere."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submission_id = config.get("metadata", {}).get("job_submission_id")
    return JobHolder(f"http://{dashboard}", submission_id) if submission_id else lease.this_process()


def is_alive(holder: Holder) -> bool | None:
    """Whether a holder is at work; None where that can't be known from here."""
    if isinstance(holder, ProcessHolder):
        return lease.process_is_alive(holder)
    try:
        return Jobs(holder.address).status(holder.submission_id)["state"] not in TERMINAL
    except AddressError:
        return None


def state(run: Run, now_s: float) -> str:
    """`running` while a holder is known to live or has renewed its lease of late, else `unfinished`."""
    found = lease.read(run)
    if found is None:
        return "unfinished"
    if isinstance(found.holder, ProcessHolder) and (known := lease.process_is_alive(found.holder)) is not None:
        return "running" if known else "unfinished"
    return "running" if now_s - found.renewed_s < lease.SILENCE_S else "unfinished"


def cancel(run: Run) -> str:
    """Ask the holder to stop; it finishes the commits in progress. Says whom it asked."""
    found = lease.read(run)
    if found is None:
        raise StoreError(f"{run.uri}: nobody is running this")
    holder = found.holder
    if isinstance(holder, JobHolder):
        _stop_job(holder)
    elif lease.process_is_alive(holder):
        os.kill(holder.pid, signal.SIGTERM)
    else:
        raise StoreError(f"{run.uri}: {holder} is not alive here; on its own machine: kill {holder.pid}")
    return str(holder)


def _stop_job(holder: JobHolder) -> None:
    """Through RAY_ADDRESS where it is set: the address in a lease is the cluster's own, often behind a port-forward for us."""
    address = address_from_environment() or holder.address
    try:
        Jobs(address).cancel(holder.submission_id)
    except AddressError as error:
        way_out = f"with the cluster's address: cli.py cancel {holder.submission_id} --address http://HEAD:8265"
        raise StoreError(f"{holder} runs this, and was not reached ({error}); {way_out}") from error
