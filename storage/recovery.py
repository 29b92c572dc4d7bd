"""What a run needs after somebody died, erred or asked for a unit again: recover, retract, sweep up."""

from __future__ import annotations

import logging
from collections.abc import Collection

from storage import compaction, layout, tensors
from storage.commits import publish, read_commit, read_state
from storage.errors import MissingObjectError
from storage.objects import Objects
from storage.records import RunRecord
from storage.summaries import SCHEMAS

logger = logging.getLogger(__name__)

ORPHAN_S = 24 * 3600.0  # an attempt that staged and did not commit for a day is not coming back


def recover(objects: Objects, run: RunRecord) -> list[int]:
    """Finish retractions and the publishing of committed units that dead processes began; returns the units published."""
    _finish_retractions(objects, run)
    attempts = staged_attempts(objects)
    committed = read_state(objects).committed
    published = []
    for unit in sorted(committed & attempts.keys()):
        record = read_commit(objects, unit)
        if record.attempt in attempts[unit]:
            publish(objects, record)
            published.append(unit)
            logger.info("unit published after its writer died", extra={"unit": unit, "attempt": record.attempt})
    return published


def retract(objects: Objects, run: RunRecord, units: Collection[int]) -> None:
    """Undo commits: the units are pending again, their rows and maps gone. Not beside writers of the same units."""
    _finish_retractions(objects, run)
    for unit in units:
        # From the moment the retraction exists no reader counts the unit; everything after it can be repeated.
        objects.create(layout.retraction(unit), objects.get(layout.commit(unit)))
    _finish_retractions(objects, run)


def collect_garbage(objects: Objects, run: RunRecord, now_s: float, *, orphan_s: float = ORPHAN_S) -> list[str]:
    """Remove what no reader will ever ask for: attempts that lost, orphans older than `orphan_s`, old generations."""
    staged = objects.entries(layout.STAGING)
    recover(objects, run)  # afterwards what was staged for a committed unit has been published or has lost
    committed = read_state(objects).committed
    garbage = []
    for entry in staged:
        parsed = layout.staged_attempt(entry.key)
        if parsed is not None and parsed[0] in committed:
            if read_commit(objects, parsed[0]).attempt != parsed[1]:
                garbage.append(entry.key)
        elif now_s - entry.modified_s > orphan_s:
            garbage.append(entry.key)
    objects.delete(garbage)
    compaction.sweep(objects)
    return garbage


def staged_attempts(objects: Objects) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for key in objects.keys(layout.STAGING):
        if (parsed := layout.staged_attempt(key)) is not None:
            found.setdefault(parsed[0], set()).add(parsed[1])
    return found


def _finish_retractions(objects: Objects, run: RunRecord) -> None:
    retracted = read_state(objects).retracted
    current = {unit for unit in retracted if _is_current(objects, unit)}
    if current:
        compaction.uncover(objects, run.shard_length, current)
        # Staging first, so that nobody publishes it again; the commits last, so that until then nobody else commits.
        staged = objects.keys(layout.STAGING)
        objects.delete(key for key in staged if (found := layout.staged_attempt(key)) and found[0] in current)
        objects.delete(_published_keys(objects, run, current))
        objects.delete(layout.commit(unit) for unit in current)
        logger.warning("commits retracted", extra={"units": sorted(current)})
    objects.delete(layout.retraction(unit) for unit in retracted)


def _is_current(objects: Objects, unit: int) -> bool:
    """Whether a retraction is about the commit that is there, not about one that is gone or an earlier attempt's."""
    try:
        return objects.get(layout.retraction(unit)) == objects.get(layout.commit(unit))
    except MissingObjectError:
        return False


def _published_keys(objects: Objects, run: RunRecord, units: Collection[int]) -> list[str]:
    """Whatever was published of units, by its place: a damaged commit cannot be asked."""
    arrays = [tensors.stored(spec, run.store) for spec in run.arrays] if run.store != "none" else []
    shards = [layout.shard(form.group, unit, len(form.shape)) for form in arrays for unit in units]
    parts = [key for table in SCHEMAS for key in objects.keys(table)]
    return [*shards, *(key for key in parts if layout.part_unit(key) in units)]
