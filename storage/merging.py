"""Whole runs: one from several that did parts of one index, and none where there was one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import layout
from storage.errors import RunMissingError, StoreError
from storage.objects import open_objects
from storage.records import Failure, Result
from storage.run import Connect, Run
from storage.summaries import GIVEN
from storage.writing import UnitWriter

_FORM = ("arrays", "store", "keep_bits")


def merge(uri: str | Path, spec: Mapping[str, Any], sources: Sequence[Run], *, connect: Connect = open_objects) -> Run:
    """A run with everything that the sources committed, bit for bit; what none has done stays pending.

    The sources did different units of one index, or have indices without a common key, which are joined in their order. Where two did
    the same image the first counts. Interrupted, it goes on when called again.
    """
    first = sources[0]
    for name in _FORM:
        if any(getattr(run.record, name) != getattr(first.record, name) for run in sources):
            raise StoreError(f"runs that differ in {name} cannot be merged")
    parts = [_Part(run) for run in sources]
    index = joined_index(sources)
    merged = Run.create(
        *(uri, spec, index, first.arrays, first.record.shard_length, first.record.store, first.record.keep_bits),
        origin={"merged": [run.uri for run in sources]},
        connect=connect,
    )
    merged.recover()
    keys = np.asarray(index["key"].to_pylist(), dtype=object)
    for unit in merged.pending():
        rows = np.asarray(merged.unit_rows(unit))
        taken = [_taken(parts, str(key)) for key in keys[rows]]
        if all(place is not None for place in taken):
            places = np.array(taken, dtype=np.int64)  # (images of the unit, 2): part, its row
            with merged.writing(unit, "merge") as out:
                for number in np.unique(places[:, 0]):
                    mine = places[:, 0] == number
                    parts[number].copy(out, places[mine, 1], rows[mine])
    merged.compact()
    return merged


def delete(uri: str | Path, *, connect: Connect = open_objects) -> None:
    """Remove a run and nothing else that lies there; interrupted, it goes on when called again."""
    objects = connect(uri)
    if objects.size(layout.RUN) is None and objects.size(layout.INDEX) is None:
        raise RunMissingError(f"no run at {uri}: it has no {layout.RUN}")
    objects.delete([layout.RUN])  # from here there is no run
    for folder in layout.FOLDERS:
        objects.clear(folder)
    objects.delete([layout.LEASE, layout.LOG, layout.INDEX])
    objects.clear(layout.STAGING)


class _Part:
    """A run to copy from: where its images are, and what it has for them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._committed = run.committed()

    def row(self, key: str) -> int | None:
        """The row of an image whose unit is committed."""
        row = self._rows.get(key)
        return row if row is not None and row // self._run.record.shard_length in self._committed else None

    def copy(self, out: UnitWriter, sources: np.ndarray, rows: np.ndarray) -> None:
        target = dict(zip(sources.tolist(), rows.tolist(), strict=True))
        summary = _of_images(self._summary, sources)
        for spec in self._run.arrays:
            found = summary.filter(pc.field("method") == spec.expression)
            images = found["image"].to_numpy()
            if len(images):
                maps = None if self._run.record.store == "none" else self._run.attributions(spec.group)[images]
                columns = {name: found[name] for name in GIVEN}
                out.add(Result(spec.group, np.array([target[image] for image in images]), maps, columns))
        for failure in _of_images(self._failures, sources).to_pylist():
            out.fail(Failure(**{**failure, "image": target[failure["image"]]}))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return dict(zip(self._run.index["key"].to_pylist(), self._run.index["image"].to_pylist(), strict=True))

    @cached_property
    def _summary(self) -> pa.Table:
        return self._run.summary()

    @cached_property
    def _failures(self) -> pa.Table:
        return self._run.failures()


def _of_images(table: pa.Table, images: np.ndarray) -> pa.Table:
    """Rows of some images of a table sorted by image, without looking at all of it."""
    start, stop = np.searchsorted(table["image"].to_numpy(), [images.min(), images.max() + 1])
    return table.slice(start, stop - start).filter(pc.field("image").isin(images))


def _taken(parts: Sequence[_Part], key: str) -> tuple[int, int] | None:
    """The first part that has an image, and its row there."""
    return next(((number, row) for number, part in enumerate(parts) if (row := part.row(key)) is not None), None)


def joined_index(sources: Sequence[Run]) -> pa.Table:
    first = sources[0].index
    if all(run.index.equals(first) for run in sources):
        return first
    joined = pa.concat_tables(run.index for run in sources)
    if pc.count_distinct(joined["key"]).as_py() != joined.num_rows:
        raise StoreError("runs whose indices differ and share keys cannot be merged: they are not parts of one index")
    return joined.set_column(joined.column_names.index("image"), "image", pa.array(range(joined.num_rows), pa.int64()))
