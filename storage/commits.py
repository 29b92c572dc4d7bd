"""How a unit becomes part of a run: staged in private, committed by one exclusive create, then published.

Why this way and not another: docs/decisions/0001-commit-protocol.md. In short: GPU results differ in their last bits, so two
attempts must never write one key; only the attempt named in the commit is ever published, so every publisher of
it writes the same bytes and a late one is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage import layout
from storage.errors import CommitLostError, MissingObjectError
from storage.objects import Objects
from storage.records import Commit, Compaction, StoredObject, from_json, to_json


@dataclass(frozen=True)
class State:
    """What one listing of the commits tells."""

    committed: frozenset[int]
    retracted: frozenset[int]  # retractions begun and not finished; their units are not committed
    generation: int  # of the newest compaction, 0 before the first


def read_state(objects: Objects) -> State:
    committed, others = layout.in_commits(objects.keys(layout.COMMITS))
    retracted, generation = set(), 0
    for key in others:
        if (unit := layout.retraction_unit(key)) is not None:
            retracted.add(unit)
        else:
            generation = max(generation, layout.compaction_generation(key) or 0)
    hidden = {unit for unit in committed & retracted if _is_retracted(objects, unit)}
    return State(frozenset(committed - hidden), frozenset(retracted), generation)


def read_commit(objects: Objects, unit: int) -> Commit:
    return from_json(Commit, objects.get(layout.commit(unit)))


def read_newest(objects: Objects) -> tuple[State, Compaction | None]:
    """The state and the compaction it names."""
    while True:
        state = read_state(objects)
        if not state.generation:
            return state, None
        try:
            return state, from_json(Compaction, objects.get(layout.compaction(state.generation)))
        except MissingObjectError:
            continue  # a newer generation swept it away: look again


def vouched(key: str, content: bytes) -> StoredObject:
    return StoredObject(key=key, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def commit(objects: Objects, record: Commit, contents: Sequence[bytes]) -> bool:
    """Stage, commit, publish. True where this attempt won; a loser publishes the winner, in case that one died."""
    staged = staged_keys(record)
    for key, content in zip(staged, contents, strict=True):
        objects.put(key, content)
    winner = create_or_read(objects, layout.commit(record.unit), to_json(record))
    won = winner == to_json(record)
    if not won:
        objects.delete(staged)
    publish(objects, record if won else from_json(Commit, winner))
    return won


def create_or_read(objects: Objects, key: str, content: bytes) -> bytes:
    """Create exclusively and return what is there then. Ours, too, where only the answer to our create got lost."""
    while not objects.create(key, content):
        try:
            return objects.get(key)
        except MissingObjectError:
            continue  # retracted between the two
    return content


def publish(objects: Objects, record: Commit) -> None:
    """Bring what a commit vouches for to its final keys; idempotent, by the winner, a loser or a recovery."""
    for source, stored in zip(staged_keys(record), record.objects, strict=True):
        try:
            objects.publish(source, stored.key)
        except MissingObjectError:
            if objects.size(stored.key) != stored.size and not is_compacted(objects, record.unit, stored.key):
                raise CommitLostError(
                    f"unit {record.unit} is committed but {stored.key} is nowhere; verify with repair computes it again"
                ) from None
    objects.delete(staged_keys(record))


def staged_keys(record: Commit) -> list[str]:
    return [layout.staged(record.unit, record.attempt, position) for position in range(len(record.objects))]


def unit_ranges(units: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Sorted units as inclusive ranges: a run of 20,000 finished units is one pair."""
    ranges: list[tuple[int, int]] = []
    for unit in sorted(units):
        if ranges and unit == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], unit)
        else:
            ranges.append((unit, unit))
    return tuple(ranges)


def is_compacted(objects: Objects, unit: int, key: str) -> bool:
    """Whether a key is a part whose rows lie in a compacted file."""
    if layout.part_unit(key) is None:
        return False
    _, compaction = read_newest(objects)
    return compaction is not None and unit in compaction.covered()


def _is_retracted(objects: Objects, unit: int) -> bool:
    """Whether the retraction concerns this very commit, not an earlier attempt's."""
    try:
        return objects.get(layout.commit(unit)) == objects.get(layout.retraction(unit))
    except MissingObjectError:
        return True  # the retraction is just being finished, commit first
