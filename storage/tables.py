"""The summary and failure tables as a reader sees them: exactly the rows of committed units, compacted or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import layout
from storage.commits import read_commit, read_newest, staged_keys
from storage.errors import CommitLostError, MissingObjectError
from storage.layout import Table
from storage.objects import Objects
from storage.records import Compaction
from storage.summaries import SCHEMAS, concatenated, from_parquet

_PATIENCE = 5  # listings; each new one needs a compaction or a retraction to have happened in between


@dataclass(frozen=True)
class Snapshot:
    """The committed units at one moment, and where their rows lie."""

    committed: frozenset[int]
    compaction: Compaction | None
    parts: dict[str, dict[int, str]]  # table -> unit -> key

    def loose(self) -> list[int]:
        """Committed units whose rows are still in parts of their own."""
        return sorted(self.committed - (self.compaction.covered() if self.compaction else set()))


def snapshot(objects: Objects) -> Snapshot:
    """Parts are listed before commits, summaries before failures, the reverse of how they come to be.

    A unit's summary part is published last, so a unit that has one has everything; and what a compaction takes away after
    the parts were listed is named by the compaction that is read after them.
    """
    parts: dict[str, dict[int, str]] = {}
    for table in (layout.SUMMARY, layout.FAILURES):
        keys = [entry.key for entry in objects.entries(table)]
        parts[table] = {unit: key for key in keys if (unit := layout.part_unit(key)) is not None}
    state, compaction = read_newest(objects)
    return Snapshot(state.committed, compaction, parts)


class Tables:
    """Reads the tables of a run; what it has read of published files it keeps, for they never change."""

    def __init__(self, objects: Objects, shard_length: int) -> None:
        self._objects, self._shard_length = objects, shard_length
        self._kept: dict[str, pa.Table] = {}

    def read(self, table: Table) -> pa.Table:
        """All rows, sorted by image."""
        compacted, loose = self.pieces(table)
        return concatenated([compacted, loose], SCHEMAS[table]).sort_by(
            [("image", "ascending"), ("method", "ascending")]
        )

    def pieces(self, table: Table) -> tuple[pa.Table, pa.Table]:
        """Compacted rows and rows of loose parts, of one snapshot."""
        for _ in range(_PATIENCE - 1):
            try:
                return self._pieces(table, snapshot(self._objects))
            except MissingObjectError:
                continue  # compacted or retracted since the listing: look again
        return self._pieces(table, snapshot(self._objects))

    def failed_images(self) -> tuple[frozenset[int], dict[int, int]]:
        """The committed units, and how many images failed in each that has any; told by names, without their content."""
        counts = {}
        for entry in self._objects.entries(layout.FAILURES):
            unit, images = layout.part_unit(entry.key), layout.part_failed_images(entry.key)
            if unit is not None and images is not None:
                counts[unit] = images
        state, compaction = read_newest(self._objects)
        counts |= compaction.failed_images if compaction else {}
        return state.committed, {unit: images for unit, images in counts.items() if unit in state.committed}

    def _pieces(self, table: Table, now: Snapshot) -> tuple[pa.Table, pa.Table]:
        stored = getattr(now.compaction, table) if now.compaction else None
        kept = {}
        compacted = SCHEMAS[table].empty_table()
        if stored is not None and now.compaction is not None:
            kept[stored.key] = self._table(stored.key)
            compacted = self._without(kept[stored.key], now.compaction.covered() - now.committed)
        loose = []
        for unit in now.loose():
            key = now.parts[table].get(unit)
            if key is not None:
                kept[key] = self._table(key)
                loose.append(kept[key])
            elif unit not in now.parts["summary"]:
                loose.extend(self._unpublished(table, unit))
        self._kept = {**self._others(table), **kept}
        return compacted, concatenated(loose, SCHEMAS[table])

    def _table(self, key: str) -> pa.Table:
        return self._kept[key] if key in self._kept else from_parquet(self._objects.get(key))

    def _others(self, table: Table) -> dict[str, pa.Table]:
        return {key: kept for key, kept in self._kept.items() if not key.startswith(f"{table}/")}

    def _without(self, rows: pa.Table, units: Iterable[int]) -> pa.Table:
        hidden = np.fromiter(units, dtype=np.int64)
        if not len(hidden):
            return rows
        unit = pc.divide(rows["image"], self._shard_length)
        return rows.filter(pc.invert(pc.is_in(unit, pa.array(hidden))))

    def _unpublished(self, table: Table, unit: int) -> list[pa.Table]:
        """Rows of a unit that is committed and whose publisher has not come to them yet, or died."""
        commit = read_commit(self._objects, unit)
        found = []
        for source, stored in zip(staged_keys(commit), commit.objects, strict=True):
            if stored.key.startswith(f"{table}/"):
                found.append(self._either(stored.key, source))
        return found

    def _either(self, key: str, source: str) -> pa.Table:
        try:
            return from_parquet(self._objects.get(source))
        except MissingObjectError:
            pass
        try:
            return from_parquet(self._objects.get(key))
        except MissingObjectError:
            raise CommitLostError(
                f"{key} is committed and nowhere; verify with repair computes its unit again"
            ) from None
