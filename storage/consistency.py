"""Checks that tables, maps and index say the same: every image and method answered once, under its own key and label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.maps import Attributions
from storage.records import Commit, RunRecord

_Rows = dict[str, np.ndarray]


class Consistency:
    """The tables of a run as arrays, sorted by image, to be compared unit by unit."""

    def __init__(
        self, run: RunRecord, summary: pa.Table, failures: pa.Table, index: pa.Table, maps: Sequence[Attributions]
    ) -> None:
        self._run, self._maps = run, maps
        self._summary = _columns(summary, ("image", "key", "label", "method", "unit", "nonfinite_count"))
        self._failures = _columns(failures, ("image", "key", "method"))
        self._index = _columns(index, ("image", "key", "label"))

    def problems(self, unit: int, commit: Commit) -> Iterator[str]:
        first = unit * self._run.shard_length
        images = np.arange(first, min(first + self._run.shard_length, self._run.image_count))
        summary, failures = _within(self._summary, images), _within(self._failures, images)
        for name, rows, promised in [
            ("summary", summary, commit.summary_rows),
            ("failures", failures, commit.failure_rows),
        ]:
            if len(rows["image"]) != promised:
                yield f"{name} has {len(rows['image'])} rows of unit {unit}, not {promised}"
            for column in ("key", "label"):
                if column in rows and (rows[column] != self._index[column][rows["image"]]).any():
                    yield f"{name} of unit {unit} has another {column} than the index"
        if (summary["unit"] != unit).any():
            yield f"summary of unit {unit} names another unit"
        for spec in self._run.arrays:
            yield from self._of_method(unit, images, spec.expression, summary, failures)

    def _of_method(self, unit: int, images: np.ndarray, method: str, summary: _Rows, failures: _Rows) -> Iterator[str]:
        answered = np.isin(images, summary["image"][summary["method"] == method])
        failed = np.isin(images, failures["image"][np.isin(failures["method"], ["", method])])
        for which, image in zip(answered[answered == failed], images[answered == failed], strict=True):
            where = "both tables" if which else "neither table"
            yield f"image {image} of unit {unit} is in {where} for {method}"
        nonfinite = summary["image"][(summary["method"] == method) & (summary["nonfinite_count"] > 0)]
        for maps in self._maps:
            if maps.expression == method:
                try:
                    known = ~np.isnan(maps[images[0] : images[-1] + 1]).reshape(len(images), -1).all(axis=1)
                except (ValueError, RuntimeError) as error:
                    yield f"maps of unit {unit} for {method} cannot be decoded: {error}"
                    continue
                if (known & ~answered).any() or (~known & answered & ~np.isin(images, nonfinite)).any():
                    yield f"maps of unit {unit} for {method} are not those of the images that have a result"


def _columns(table: pa.Table, names: Sequence[str]) -> _Rows:
    """Columns as arrays; an absent label is -1, an absent method (the whole image failed) the empty string."""
    ordered = table.sort_by("image")
    columns = {}
    for name in names:
        if name not in table.column_names:
            continue
        column = ordered[name]
        empty = "" if pa.types.is_string(column.type) else -1
        columns[name] = pc.fill_null(column, pa.scalar(empty, column.type)).to_numpy()
    return columns


def _within(rows: _Rows, images: np.ndarray) -> _Rows:
    start, stop = np.searchsorted(rows["image"], [images[0], images[-1] + 1])
    return {name: column[start:stop] for name, column in rows.items()}
