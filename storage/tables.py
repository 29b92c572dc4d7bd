"""The summary and failure tables as a reader sees them: exactly the rows of committed units, compacted or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import layout
from storage.commits import read_commit, read_newest, staged_keys
from storage.errors import CommitLostError, MissingObjectError
from storage.layout import Table
from storage.objects import Entry, Objects
from storage.records import Compaction
from storage.summaries import SCHEMAS, concatenated, from_parquet

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_PATIENCE = 5  # listings; each new one needs a compaction or a retraction to have happened in between
_READERS = 8  # parts are small: reading them is waiting
# A compacted file below this is read whole: quicker than loading pyarrow.dataset, which brings pandas where it is installed.
COLUMNWISE_BYTES = 16 << 20


@dataclass(frozen=True)
class Snapshot:
    """The committed units at one moment, and where their rows lie."""

    committed: frozenset[int]
    compaction: Compaction | None
    parts: Mapping[Table, Mapping[int, Entry]]

    def loose(self) -> list[int]:
        """Committed units whose rows are still in parts of their own."""
        return sorted(self.committed - (self.compaction.covered() if self.compaction else set()))


@dataclass(frozen=True)
class Rows:
    """One table of one snapshot: what is compacted, to be read column by column, and the loose rest."""

    compacted: pa.Table | ds.Dataset
    loose: pa.Table

    def table(self) -> pa.Table:
        """All rows, sorted by image and method."""
        compacted = self.compacted if isinstance(self.compacted, pa.Table) else self.compacted.to_table()
        joined = pa.concat_tables([compacted, self.loose])
        return joined.sort_by([("image", "ascending"), ("method", "ascending")])


def snapshot(objects: Objects) -> Snapshot:
    """Parts are listed before commits, summaries before failures, the reverse of how they come to be.

    A unit's summary part is published last, so a unit that has one has everything; and what a compaction takes away after
    the parts were listed is named by the compaction that is read after them.
    """
    parts: dict[Table, dict[int, Entry]] = {}
    for table in SCHEMAS:
        entries = objects.entries(table)
        parts[table] = {unit: entry for entry in entries if (unit := layout.part_unit(entry.key)) is not None}
    state, compaction = read_newest(objects)
    return Snapshot(state.committed, compaction, parts)


def failed_images(objects: Objects) -> tuple[frozenset[int], dict[int, int]]:
    """The committed units, and how many images failed in each that has any; told by names, without their content."""
    counts = {}
    for key in objects.keys(layout.FAILURES):
        unit, images = layout.part_unit(key), layout.part_failed_images(key)
        if unit is not None and images is not None:
            counts[unit] = images
    state, compaction = read_newest(objects)
    counts |= compaction.failed_images if compaction else {}
    return state.committed, {unit: images for unit, images in counts.items() if unit in state.committed}


class Tables:
    """Reads the tables of a run; parts it has read it keeps, so that asking again costs a listing."""

    def __init__(self, objects: Objects, shard_length: int) -> None:
        self._objects, self._shard_length = objects, shard_length
        self._files: dict[str, bytes] = {}
        self._parts: dict[Entry, pa.Table] = {}

    def read(self, table: Table) -> pa.Table:
        return self.rows([table])[table].table()

    def rows(self, tables: Sequence[Table]) -> dict[Table, Rows]:
        """Tables of one and the same snapshot."""
        for _ in range(_PATIENCE - 1):
            try:
                return self._rows(tables, snapshot(self._objects))
            except MissingObjectError:
                continue  # compacted or retracted since the listing: look again
        return self._rows(tables, snapshot(self._objects))

    def _rows(self, tables: Sequence[Table], now: Snapshot) -> dict[Table, Rows]:
        return {table: Rows(self._compacted(table, now), self._loose(table, now)) for table in tables}

    def _compacted(self, table: Table, now: Snapshot) -> pa.Table | ds.Dataset:
        stored = getattr(now.compaction, table) if now.compaction else None
        if stored is None or now.compaction is None:
            return pa.Table.from_batches([], SCHEMAS[table])
        if stored.key not in self._files:
            content = self._objects.get(stored.key)
            self._files = {key: kept for key, kept in self._files.items() if not key.startswith(f"{table}/")}
            self._files[stored.key] = content
        content = self._files[stored.key]
        if hidden := now.compaction.covered() - now.committed:
            return self._without(from_parquet(content), hidden)
        return from_parquet(content) if len(content) < COLUMNWISE_BYTES else _columnwise(content, SCHEMAS[table])

    def _without(self, rows: pa.Table, units: set[int]) -> pa.Table:
        """Only while a unit is being retracted are there rows to hide."""
        unit = pc.divide(rows["image"], self._shard_length)
        return rows.filter(pc.invert(pc.is_in(unit, pa.array(np.fromiter(units, dtype=np.int64)))))

    def _loose(self, table: Table, now: Snapshot) -> pa.Table:
        units = now.loose()
        wanted = [now.parts[table][unit] for unit in units if unit in now.parts[table]]
        missing = [entry for entry in wanted if entry not in self._parts]
        with ThreadPoolExecutor(_READERS) as readers:
            contents = readers.map(lambda entry: from_parquet(self._objects.get(entry.key)), missing)
            read = dict(zip(missing, contents, strict=True))
        kept = {entry: self._parts[entry] for entry in wanted if entry in self._parts}
        others = {entry: part for entry, part in self._parts.items() if not entry.key.startswith(f"{table}/")}
        self._parts = {**others, **kept, **read}
        unpublished = [unit for unit in units if unit not in now.parts["summary"] and unit not in now.parts[table]]
        loose = [self._parts[entry] for entry in wanted]
        loose += [part for unit in unpublished for part in self._unpublished(table, unit)]
        return concatenated(loose, SCHEMAS[table])

    def _unpublished(self, table: Table, unit: int) -> list[pa.Table]:
        """Rows of a unit that is committed and whose publisher has not come to them yet, or died."""
        commit = read_commit(self._objects, unit)
        places = zip(staged_keys(commit), commit.objects, strict=True)
        return [self._either(source, stored.key) for source, stored in places if stored.key.startswith(f"{table}/")]

    def _either(self, *keys: str) -> pa.Table:
        for key in keys:
            try:
                return from_parquet(self._objects.get(key))
            except MissingObjectError:
                continue
        raise CommitLostError(f"{keys[-1]} is committed and nowhere; verify with repair computes its unit again")


def _columnwise(content: bytes, schema: pa.Schema) -> ds.Dataset:
    """A file that is decoded column by column, as a query names them."""
    import pyarrow.dataset as ds

    checked = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    fragment = checked.make_fragment(pa.py_buffer(content))
    return ds.FileSystemDataset([fragment], schema=schema, format=checked, filesystem=None)
