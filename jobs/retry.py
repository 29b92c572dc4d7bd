"""What follows a failure, decided without clock, Ray or disk: try again, split, quarantine or give up."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["read", "decode", "target", "attribute", "write"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that went wrong with one attempt."""

    kind: Literal["raised", "died", "overdue", "store", "lost"]
    stage: Stage
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    attempts: int = 3  # of a whole shard, before its culprits are looked for
    probe_attempts: int = 2  # of one suspected image: a second, so that a machine's death convicts nobody
    store_attempts: int = 3  # each of them waited for a while inside the worker already
    free_losses: int = 10  # decoded images lost with their machine, before the shard is charged after all
    rounds: int = 2  # of looking for culprits, before all images of the shard are quarantined


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of a shard, this fault included."""

    charges: int = 0
    store_faults: int = 0
    losses: int = 0
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    after_s: float


@dataclass(frozen=True, slots=True)
class Split:
    """Look for the culprits among the halves of these images."""


@dataclass(frozen=True, slots=True)
class Convict:
    """The one image left is the culprit."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """No culprit was found and the shard still fails: all its images are recorded as failures."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


Decision = Again | Split | Convict | Quarantine | GiveUp


def decide(fault: Fault, history: History, image_count: int, limits: Limits) -> Decision:
    """What to do with a whole shard (or what is left of it) after a fault."""
    if fault.kind == "store":
        if history.store_faults >= limits.store_attempts:
            return GiveUp(f"the store fails: {fault.error}")
        return Again(backoff(history.store_faults, first_s=5.0, most_s=120.0))
    if fault.kind == "lost" and history.losses <= limits.free_losses:
        return Again(0.0)
    if image_count == 0:  # only failures are left to write down; the images have no part in it
        if history.charges >= limits.attempts + limits.free_losses:
            return GiveUp(f"failures can't be recorded: {fault.error}")
        return Again(backoff(history.charges))
    if history.charges < limits.attempts:
        return Again(0.0 if fault.kind == "raised" and fault.stage == "attribute" else backoff(history.charges))
    if image_count == 1:
        return Convict()
    return Split() if history.rounds < limits.rounds else Quarantine()


def decide_probe(fault: Fault, faults: int, image_count: int, limits: Limits) -> Decision:
    """What to do with a probe, which is a part of a shard run to find culprits and never committed."""
    if fault.kind in {"store", "lost"} and faults <= limits.free_losses:
        return Again(backoff(faults))
    if image_count > 1:
        return Split()
    return Convict() if faults >= limits.probe_attempts else Again(backoff(faults))


def backoff(failures: int, first_s: float = 1.0, most_s: float = 60.0) -> float:
    """Seconds to wait after the n-th failure in a row: doubled each time, up to a limit."""
    return min(first_s * 2.0 ** max(failures - 1, 0), most_s)
