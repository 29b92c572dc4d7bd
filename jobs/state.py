"""What the schedule knows of a run under way: the shards that wait, the attempts in flight, the workers, and the policy."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from jobs.cases import Cases
from jobs.events import Abort, Finish, Piece
from jobs.retry import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    workers: int
    image_bytes: int  # of one decoded image
    window_bytes: int  # of decoded images on their way, all together
    decodes: int = 1000  # at once; each is a process of its own
    ahead: int = 0  # at least so many shards a worker beyond what they hold, where GPUs wait for decoding
    queue_depth: int = 2  # one running and one at hand, so that a worker never waits for decoding
    limits: Limits = field(default_factory=Limits)
    max_failures: int | None = None
    stall_timeout_s: float = 600.0
    deadline_s: float | None = None  # of one shard; None: from the shards that went before
    warm_up_s: float = 900.0  # more, for the first shard of a worker (compilation, autotuning)
    idle_s: float = 60.0  # after which a worker with nothing left to do is let go
    hopeless_shards: int = 3  # that use up their attempts before anything succeeds: then it's not the images
    worker_starts: int = 3  # that may fail before any worker has been alive


@dataclass(slots=True)
class Flight:
    piece: Piece
    phase: Literal["decoding", "decoded", "assigned", "running"]
    since: float
    slot: int = -1


@dataclass(slots=True)
class Slot:
    """A worker's place; its generations follow one another."""

    generation: int = -1
    phase: Literal["absent", "starting", "ready"] = "absent"
    tickets: list[int] = field(default_factory=list)
    current: int | None = None  # the ticket it said it computes
    idle_since: float = 0.0
    is_released: bool = False  # it had nothing to do; its place is filled again only if work comes back
    finished: int = 0  # by this generation; the first one warms it up
    lost: int = 0  # generations in a row that finished nothing
    not_before: float = 0.0


@dataclass(slots=True)
class State:
    policy: Policy
    rows_of: Callable[[int], range]
    pending: set[int]
    queue: deque[Piece | int]
    now: float
    slots: list[Slot] = field(default_factory=list)
    flights: dict[int, Flight] = field(default_factory=dict)
    delayed: list[tuple[float, int, Piece]] = field(default_factory=list)
    cases: Cases = field(default_factory=Cases)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=101))
    decode_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=101))
    dropped: list[int] = field(default_factory=list)
    next_ticket: int = 0
    failures: int = 0
    succeeded: bool = False
    last_sign_of_life: float = 0.0
    last_error: str = ""
    verdict: Finish | Abort | None = None


def begin(policy: Policy, units: Iterable[int], rows_of: Callable[[int], range], now: float) -> State:
    """The state before the first event; the units are worked on in the order given."""
    queue: deque[Piece | int] = deque(units)
    pending = {unit for unit in queue if isinstance(unit, int)}
    slots = [Slot() for _ in range(policy.workers)]
    return State(policy, rows_of, pending, queue, now, slots, last_sign_of_life=now)
