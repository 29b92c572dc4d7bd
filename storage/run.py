"""A run directory, opened for reading or writing: the one door to everything that a run leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import commits, compaction, derived, layout, queries, recovery, tables, tensors, verification
from storage.errors import MissingObjectError, RunExistsError, RunMissingError, StoreError
from storage.index import Index, encode_index
from storage.layout import Table
from storage.maps import Attributions, image_numbers
from storage.objects import Objects, open_objects
from storage.records import ArraySpec, Commit, RunRecord, Store, from_json, to_json
from storage.shards import Each
from storage.tables import Rows, Tables
from storage.verification import Depth, Report
from storage.writing import UnitWriter

Connect = Callable[[str | Path], Objects]


@dataclass(frozen=True)
class Progress:
    """How far a run is, told by listings alone."""

    images: int
    done: int  # images of committed units that have a result for every method
    failed: int
    units: int
    committed: int


class Run:
    """Opened with `Run.open`, made with `Run.create`; holds no lock and no state that is not on disk."""

    def __init__(self, objects: Objects, content: bytes) -> None:
        self.objects = objects
        self.record = from_json(RunRecord, content)
        self.digest = commits.vouched(layout.RUN, content).sha256
        self._index = Index(objects)
        self._tables = Tables(objects, self.record.shard_length)

    @classmethod
    def create(
        cls,
        uri: str | Path,
        spec: Mapping[str, Any],
        index: pa.Table,
        arrays: Sequence[ArraySpec],
        shard_length: int,
        store: Store = "full",
        keep_bits: int = 10,
        *,
        origin: Mapping[str, Any] | None = None,
        connect: Connect = open_objects,
    ) -> Run:
        """Make a run, or open it if the very same one is there; `origin` is recorded beside the spec and not compared."""
        objects = connect(uri)
        written = {layout.INDEX: encode_index(index)}
        form = {"image_count": index.num_rows, "shard_length": shard_length, "store": store, "keep_bits": keep_bits}
        if store != "none":
            written |= tensors.metadata_objects([tensors.stored(each, store) for each in arrays], form)
        record = RunRecord(
            spec=spec,
            arrays=tuple(arrays),
            objects=tuple(commits.vouched(key, content) for key, content in written.items()),
            origin=origin or {},
            **form,
        )
        if objects.size(layout.RUN) is None:
            if objects.keys(layout.COMMITS):
                raise RunExistsError(
                    f"{uri} holds commits of a run without {layout.RUN}: delete what is left of it first"
                )
            for key, content in written.items():
                objects.put(key, content)
        # Created last and exclusively: a place with a run.json is a whole run, and of two creators one wins.
        run = cls(objects, commits.create_or_read(objects, layout.RUN, to_json(record)))
        differing = [name for name in _COMPARED if getattr(run.record, name) != getattr(record, name)]
        if run.record.objects != record.objects and not run.index.equals(index):
            differing.append("index")
        if differing:
            raise RunExistsError(
                f"{uri} holds another run (it differs in {', '.join(differing)}); choose another output"
            )
        return run

    @classmethod
    def open(cls, uri: str | Path, *, connect: Connect = open_objects) -> Run:
        objects = connect(uri)
        try:
            return cls(objects, objects.get(layout.RUN))
        except MissingObjectError:
            raise RunMissingError(f"no run at {uri}: it has no {layout.RUN}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Run.open, (self.uri,)

    @property
    def uri(self) -> str:
        return self.objects.uri

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.record.spec)

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        return self.record.arrays

    @property
    def index(self) -> pa.Table:
        return self._index.table

    def index_rows(self, images: Sequence[int]) -> pa.Table:
        """Some rows of the index in this order, without holding all of it."""
        return self._index.rows(images)

    def images(self, rows: int | slice | Sequence[int] | np.ndarray) -> pa.Table:
        """Rows of the index: key, label, and where each image lies."""
        if isinstance(rows, slice):
            return self.index.take(pa.array(np.arange(self.image_count)[rows]))
        return self.index.take(pa.array(np.atleast_1d(image_numbers(rows, self.image_count))))

    @property
    def image_count(self) -> int:
        return self.record.image_count

    @property
    def unit_count(self) -> int:
        return -(-self.record.image_count // self.record.shard_length)

    def unit_rows(self, unit: int) -> range:
        """The image numbers of a unit."""
        if not 0 <= unit < self.unit_count:
            raise StoreError(f"unit {unit} is not within 0..{self.unit_count - 1}")
        first = unit * self.record.shard_length
        return range(first, min(first + self.record.shard_length, self.record.image_count))

    def committed(self) -> frozenset[int]:
        return commits.read_state(self.objects).committed

    def pending(self) -> list[int]:
        """Units that nobody has committed, in order: index minus commits."""
        return sorted(set(range(self.unit_count)) - self.committed())

    def commit_times(self) -> dict[int, float]:
        """When each unit was committed, in seconds since the epoch by the store's clock: one listing, no commit is read."""
        units = self.committed()
        listed = ((layout.commit_unit(entry.key), entry.modified_s) for entry in self.objects.entries(layout.COMMITS))
        return {unit: when for unit, when in listed if unit in units}

    def commit_of(self, unit: int) -> Commit:
        """Who committed a unit, when asked what a map was made with."""
        return commits.read_commit(self.objects, unit)

    @contextmanager
    def writing(self, unit: int, attempt: str, each: Each = map) -> Iterator[UnitWriter]:
        """Collect a unit; leaving the block commits it, leaving it by an exception leaves nothing behind.

        `each` compresses its maps: an executor's `map` does many at once.
        """
        rows = self.unit_rows(unit)
        writer = UnitWriter(self.objects, self.record, self.digest, unit, attempt, rows, self._index.rows(rows), each)
        yield writer
        writer.commit()

    def summary(self) -> pa.Table:
        return self._tables.read("summary")

    def failures(self) -> pa.Table:
        return self._tables.read("failures")

    def rows(self) -> dict[Table, Rows]:
        """Both tables of one snapshot, unread: what a query needs."""
        return self._tables.rows(["summary", "failures"])

    def sql(self, query: str) -> pa.Table:
        """The answer to one SELECT over `summary`, `failures`, `images` and the tables kept with the run."""
        return queries.query({"": self}, query)

    def put_table(self, name: str, table: pa.Table) -> None:
        """Keep a table that was computed from this run, where `sql` finds it by its name; replaces an earlier one."""
        derived.put(self.objects, name, table)

    def table(self, name: str) -> pa.Table:
        return derived.read(self.objects, name)

    def tables(self) -> list[str]:
        """Names of the tables that were computed from this run and kept with it."""
        return derived.names(self.objects)

    def attributions(self, name: str) -> Attributions:
        """The maps of a group or of a method expression."""
        if self.record.store == "none":
            raise StoreError(f"{self.uri} was made with store=none: it has summaries and no maps")
        for spec in self.arrays:
            if name in (spec.group, spec.expression):
                return Attributions(self.objects, tensors.stored(spec, self.record.store), self.image_count)
        raise StoreError(f"this run has no {name!r}; it has {', '.join(spec.group for spec in self.arrays)}")

    def to_xarray(self) -> Any:
        """An xarray DataTree, a group each, read when asked; with the keys and labels of the index as coordinates."""
        try:
            import xarray
            import zarr
        except ImportError:
            raise StoreError("to_xarray needs xarray: pip install xarray") from None
        if self.record.store == "none":
            raise StoreError(f"{self.uri} was made with store=none: it has summaries and no maps")
        coordinates = {"key": ("image", self.index["key"].to_numpy())}
        if "label" in self.index.column_names:
            coordinates["label"] = ("image", pc.fill_null(self.index["label"], -1).to_numpy())
        groups = {}
        for spec in self.arrays:
            path = f"{layout.ARRAYS}/{spec.group}"
            group = zarr.open_group(self.objects.zarr_store(), path=path, mode="r")
            found = xarray.open_dataset(xarray.backends.ZarrStore(group, mode="r"), chunks=None)
            groups[spec.group] = found.assign_coords(coordinates)
        return xarray.DataTree.from_dict(groups)

    def progress(self) -> Progress:
        committed, failed_images = tables.failed_images(self.objects)
        images = sum(len(self.unit_rows(unit)) for unit in committed)
        failed = sum(failed_images.values())
        return Progress(self.image_count, images - failed, failed, self.unit_count, len(committed))

    def recover(self) -> list[int]:
        """Finish what dead processes began; a driver calls it before it asks what is pending. Returns units published."""
        return recovery.recover(self.objects, self.record)

    def compact(self, *, at_least: int = 1) -> int:
        """Fold waiting Parquet parts into one sorted file a table, if `at_least` units wait; returns how many it folded."""
        return compaction.compact(self.objects, self.record.shard_length, at_least=at_least)

    def verify(self, depth: Depth = "bytes") -> Report:
        """Compare the run with what it vouches for: `sizes` is quick, `bytes` reads everything."""
        return verification.verify(self.objects, self.record, self.digest, depth)

    def repair(self, report: Report) -> list[int]:
        """Make the bad units of a report pending again, and remove strays; not beside a driver of this run."""
        recovery.retract(self.objects, self.record, report.units_to_retract)
        self.objects.delete(problem.stray for problem in report.problems if problem.stray is not None)
        return list(report.units_to_retract)

    def collect_garbage(self, now_s: float | None = None) -> list[str]:
        """Remove attempts that lost, orphans older than a day and replaced generations; returns the keys staged in vain."""
        return recovery.collect_garbage(self.objects, self.record, time.time() if now_s is None else now_s)


_COMPARED = ("spec", "arrays", "image_count", "shard_length", "store", "keep_bits")
