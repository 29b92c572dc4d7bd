"""Thousands of small Parquet parts become one sorted file a table; a crash at any step leaves every row readable once.

A generation is a private file a table and one exclusively created record that names them and the units they cover. Readers
take covered units from there and all others from their parts, so it does not matter when the parts go.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage import commits, layout
from storage.errors import MissingObjectError
from storage.layout import Table
from storage.objects import Objects
from storage.records import Compaction, StoredObject, to_json
from storage.summaries import SCHEMAS, SUMMARY, from_parquet, writer
from storage.tables import Snapshot, snapshot

ROW_GROUP = 128 * 1024  # rows; measured best of 16k, 128k and 1M for group-bys and look-ups together


@dataclass(frozen=True)
class _Merged:
    """One table's file of a new generation."""

    stored: StoredObject | None
    row_count: int


def compact(objects: Objects, shard_length: int, *, at_least: int = 1) -> int:
    """Fold in the parts of committed units once `at_least` wait; returns how many units were folded in."""
    now = snapshot(objects)
    ready = {unit for unit in now.loose() if _is_published(objects, now, unit)}
    if not ready or len(ready) < at_least:
        return 0
    return len(ready) if _rewrite(objects, shard_length, now, ready, frozenset()) else 0


def uncover(objects: Objects, shard_length: int, units: Collection[int]) -> None:
    """Take units' rows out of the compacted files, so that their commits can be retracted."""
    while (now := snapshot(objects)).compaction is not None and now.compaction.covered() & set(units):
        _rewrite(objects, shard_length, now, set(), frozenset(units))


def sweep(objects: Objects) -> None:
    """Remove the parts and generations that the newest compaction replaces."""
    now = snapshot(objects)
    if now.compaction is None:
        return
    covered, current = now.compaction.covered(), now.compaction.generation
    named = {stored.key for stored in (now.compaction.summary, now.compaction.failures) if stored}
    for table in SCHEMAS:
        objects.delete(entry.key for unit, entry in now.parts[table].items() if unit in covered)
        files = [(layout.compacted_generation(key), key) for key in objects.keys(table)]
        # A file of a later generation may belong to a compaction whose record is about to be created.
        objects.delete(key for generation, key in files if generation and generation <= current and key not in named)
    records = [(layout.compaction_generation(key), key) for key in objects.keys(layout.COMMITS)]
    objects.delete(key for generation, key in records if generation and generation < current)


def _is_published(objects: Objects, now: Snapshot, unit: int) -> bool:
    """The summary is published last; only a unit whose images all failed has none."""
    if unit in now.parts["summary"]:
        return True
    return unit in now.parts["failures"] and commits.read_commit(objects, unit).summary_rows == 0


def _rewrite(objects: Objects, shard_length: int, now: Snapshot, add: set[int], drop: frozenset[int]) -> bool:
    """Create the next generation; False where another process was first or took a part away meanwhile."""
    before = now.compaction
    covered = before.covered() if before else set()
    generation = before.generation + 1 if before else 1
    keep = covered - drop
    try:
        merged = {table: _merge(objects, table, shard_length, now, generation, add, keep) for table in SCHEMAS}
    except MissingObjectError:
        return False
    failed = {unit: count for unit, count in (before.failed_images if before else {}).items() if unit in keep}
    for unit in add & now.parts["failures"].keys():
        failed[unit] = layout.part_failed_images(now.parts["failures"][unit].key) or 0
    record = Compaction(
        generation=generation,
        units=commits.unit_ranges(keep | add),
        summary=merged["summary"].stored,
        failures=merged["failures"].stored,
        summary_rows=merged["summary"].row_count,
        failure_rows=merged["failures"].row_count,
        failed_images=failed,
    )
    won = commits.create_or_read(objects, layout.compaction(generation), to_json(record)) == to_json(record)
    if won:
        sweep(objects)
    else:
        objects.delete(each.stored.key for each in merged.values() if each.stored)
    return won


def _merge(
    objects: Objects, table: Table, shard_length: int, now: Snapshot, generation: int, add: set[int], keep: set[int]
) -> _Merged:
    """Write the table's rows of the kept and added units in order of images, holding little of them at a time."""
    sink, row_count = io.BytesIO(), 0
    before = getattr(now.compaction, table) if now.compaction else None
    old = _batches(objects.get(before.key), shard_length, keep) if before else iter(())
    added = [(unit, now.parts[table][unit].key) for unit in sorted(add & now.parts[table].keys())]
    with writer(sink, SCHEMAS[table]) as parquet:
        for rows in _grouped(_in_order(objects, old, added, shard_length, keep)):
            parquet.write_table(rows)
            row_count += rows.num_rows
    if not row_count:
        return _Merged(None, 0)
    stored = commits.vouched(layout.compacted(table, generation, uuid.uuid4().hex[:12]), sink.getvalue())
    objects.put(stored.key, sink.getvalue())
    return _Merged(stored, row_count)


def _in_order(
    objects: Objects, old: Iterator[pa.Table], added: list[tuple[int, str]], shard_length: int, keep: set[int]
) -> Iterator[pa.Table]:
    """Kept old rows and new parts, merged by unit; the old ones are sorted already and a unit is in one of the two."""
    waiting = iter([*added, (None, "")])
    unit, key = next(waiting)
    for batch in old:
        units = batch["image"].to_numpy() // shard_length
        kept = batch.filter(pa.array(np.isin(units, list(keep))))
        units = kept["image"].to_numpy() // shard_length
        start = 0
        while unit is not None and len(units) and unit < units[-1]:
            stop = int(np.searchsorted(units, unit))
            yield kept.slice(start, stop - start)
            yield from_parquet(objects.get(key))
            start, (unit, key) = stop, next(waiting)
        yield kept.slice(start)
    while unit is not None:
        yield from_parquet(objects.get(key))
        unit, key = next(waiting)


def row_groups(content: bytes, shard_length: int) -> list[range]:
    """The units that each row group of a compacted file touches, from its statistics."""
    metadata = pq.ParquetFile(pa.BufferReader(content)).metadata
    image = SUMMARY.names.index("image")
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(image).statistics
        found.append(range(statistics.min // shard_length, statistics.max // shard_length + 1))
    return found


def read_row_group(content: bytes, group: int) -> pa.Table:
    """A row group, its checksums verified."""
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read_row_group(group)


def _batches(content: bytes, shard_length: int, keep: set[int]) -> Iterator[pa.Table]:
    """Row groups with rows to keep; the others are not read, for they may be why they are not kept."""
    for group, units in enumerate(row_groups(content, shard_length) if keep else []):
        if not keep.isdisjoint(units):
            yield read_row_group(content, group)


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP rows, the last one shorter."""
    held: list[pa.Table] = []
    missing = ROW_GROUP
    for table in tables:
        rest = table
        while rest.num_rows >= missing:
            yield pa.concat_tables([*held, rest.slice(0, missing)])
            held, rest, missing = [], rest.slice(missing), ROW_GROUP
        held.append(rest)
        missing -= rest.num_rows
    if missing < ROW_GROUP:
        yield pa.concat_tables(held)
