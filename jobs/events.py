"""The words between the schedule and the driver: what happened (events), and what is to be done (actions)."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.retry import Fault, Stage


@dataclass(frozen=True, slots=True)
class Culprit:
    """An image found to make its shard fail."""

    image: int
    stage: Stage
    error: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Images of one shard to be worked on together: the shard less its culprits, or a probe, which is not committed."""

    unit: int
    rows: Sequence[int]
    culprits: tuple[Culprit, ...] = ()
    is_probe: bool = False


# Events. A ticket names one attempt at one piece.
@dataclass(frozen=True, slots=True)
class WorkerReady:
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    slot: int
    generation: int
    error: str
    is_innocent: bool = False  # it went with its machine, or can't be reached: no shard did it


@dataclass(frozen=True, slots=True)
class Decoded:
    ticket: int


@dataclass(frozen=True, slots=True)
class Started:
    """The worker now computes this one: it is to blame if the worker dies."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Committed, by this attempt or an earlier one; for a probe: got through. The piece is repeated for late answers."""

    ticket: int
    piece: Piece
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Faulted:
    ticket: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class Resized:
    """The cluster now has room for so many workers."""

    workers: int


Event = WorkerReady | WorkerLost | Decoded | Started | Finished | Faulted | Resized


# Actions.
@dataclass(frozen=True, slots=True)
class StartWorker:
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    slot: int
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseWorker:
    """There is nothing left for it to do: its machine may go."""

    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Decode:
    ticket: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Attribute:
    ticket: int
    slot: int
    generation: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Drop:
    """What this ticket decoded is no longer wanted."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Every shard is committed."""


@dataclass(frozen=True, slots=True)
class Abort:
    reason: str


Action = StartWorker | StopWorker | ReleaseWorker | Decode | Attribute | Drop | Finish | Abort
