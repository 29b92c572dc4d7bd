"""Who is running a run: `lease.json`, renewed every few seconds, so that two drivers do not do the same work twice.

Advisory only: the commits keep a run correct whoever writes. What to do is decided purely; reading and writing are at the end.
"""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import layout
from storage.errors import LeaseHeldError, MissingObjectError
from storage.records import as_record, from_json, to_json

if TYPE_CHECKING:
    from storage.run import Run

RENEW_S = 10.0
SILENCE_S = 60.0  # a holder of whom nothing is known and that renewed nothing for so long is taken for dead


@dataclass(frozen=True)
class ProcessHolder:
    """A driver on some machine. A process id alone may have been given to another process since."""

    host: str
    pid: int
    pid_start: str  # boot id and start time: tells a process from a later one of the same number

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class JobHolder:
    """A driver that Ray runs as a job."""

    address: str
    submission_id: str

    def __str__(self) -> str:
        return f"job {self.submission_id} at {self.address}"


Holder = ProcessHolder | JobHolder


@dataclass(frozen=True)
class Lease:
    """Someone's claim, as it lies in the run directory."""

    holder: Holder
    renewed_s: float  # by the holder's clock
    token: str  # of one acquisition: a driver that lost its lease and got it back is another

    def __post_init__(self) -> None:
        if isinstance(self.holder, dict):
            kind: type[Holder] = ProcessHolder if "pid" in self.holder else JobHolder
            object.__setattr__(self, "holder", as_record(kind, self.holder))


@dataclass(frozen=True)
class Take:
    """Nobody else is at work."""


@dataclass(frozen=True)
class Wait:
    """Whether the holder lives will show within `seconds`; ask again then, with the lease that was seen."""

    seconds: float
    seen: Lease

    def __str__(self) -> str:
        return (
            f"{self.seen.holder} may be running this; waiting {self.seconds:.0f} s for a sign of life (or --take-over)"
        )


@dataclass(frozen=True)
class Refuse:
    """Another driver is at work."""

    reason: str


def decide(
    lease: Lease | None, me: Holder, now_s: float, alive: bool | None, take_over: bool, seen: Lease | None = None
) -> Take | Wait | Refuse:
    """What a driver does about a lease; `alive` is None where it cannot be known, `seen` the lease it has waited for."""
    if lease is None or lease.holder == me or take_over or alive is False:
        return Take()
    way_out = "follow it with status, end it with cancel, or submit with --take-over"
    if alive:
        return Refuse(f"{lease.holder} is running this; {way_out}")
    if seen is not None and seen != lease:
        return Refuse(f"{lease.holder} is running this, it renewed its lease while we waited; {way_out}")
    silence_s = max(0.0, now_s - lease.renewed_s)
    return Take() if silence_s >= SILENCE_S else Wait(SILENCE_S - silence_s, lease)


def acquire(
    run: Run,
    me: Holder,
    now_s: float,
    take_over: bool = False,
    *,
    seen: Lease | None = None,
    is_alive: Callable[[Holder], bool | None] | None = None,
) -> Lease | Wait:
    """Our lease, or how long to wait before asking again; LeaseHeldError where another driver is at work."""
    while True:
        lease = read(run)
        alive = None if lease is None else (is_alive or process_is_alive)(lease.holder)
        decision = decide(lease, me, now_s, alive, take_over, seen)
        if isinstance(decision, Refuse):
            raise LeaseHeldError(f"{run.uri}: {decision.reason}")
        if isinstance(decision, Wait):
            return decision
        mine = Lease(me, now_s, uuid.uuid4().hex)
        if lease is not None:
            run.objects.put(layout.LEASE, to_json(mine))
            return mine
        if run.objects.create(layout.LEASE, to_json(mine)) or read(run) == mine:
            return mine


def renew(run: Run, mine: Lease, now_s: float) -> Lease:
    """Our lease with a new date; LeaseHeldError where someone took it over, and then we should stop."""
    found = read(run)
    if found is not None and found.token != mine.token:
        raise LeaseHeldError(f"{run.uri}: {found.holder} took this run over; it goes on there")
    renewed = Lease(mine.holder, now_s, mine.token)
    run.objects.put(layout.LEASE, to_json(renewed))
    return renewed


def release(run: Run, mine: Lease) -> None:
    found = read(run)
    if found is not None and found.token == mine.token:
        run.objects.delete([layout.LEASE])


def read(run: Run) -> Lease | None:
    try:
        return from_json(Lease, run.objects.get(layout.LEASE))
    except MissingObjectError:
        return None


def this_process() -> ProcessHolder:
    pid = os.getpid()
    return ProcessHolder(socket.gethostname(), pid, _start(pid) or "")


def process_is_alive(holder: Holder) -> bool | None:
    """Whether a process of this machine lives; None for other machines, and for jobs, which only Ray knows."""
    if not isinstance(holder, ProcessHolder) or holder.host != socket.gethostname():
        return None
    boot, _, _ = holder.pid_start.partition("/")
    if boot != _boot():
        return None  # before a reboot, or another machine of the same name
    return _start(holder.pid) == holder.pid_start


def _start(pid: int) -> str | None:
    """When a process began, None where there is none, or only what its parent has not yet collected."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_from_ps(pid)
    except ProcessLookupError:
        return None
    # The name, in parentheses, may hold anything; state is the first field after it, the start time the 20th.
    after_name = status.rpartition(")")[2].split()
    return None if after_name[0] in "ZX" else f"{_boot()}/{after_name[19]}"


def _start_from_ps(pid: int) -> str | None:
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    answer: Any = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    return f"{_boot()}/{answer.stdout.strip()}" if answer.stdout.strip() else None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
