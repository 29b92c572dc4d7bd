"""One pass over a run's maps for everything that is told of the data set: places, agreement of methods, mean map per class."""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attribution.visualization import enlarge
from jobs.measures import place_shares, spearman
from jobs.views import Planes, View

GRID = 48  # side of a mean map: finer than any CAM, small enough for a thousand classes
AGREEMENT_GRID = 32  # methods are compared by where their attribution lies, not pixel by pixel
CHUNK = 32  # images in memory at once and thread
PLACES_SCHEMA = pa.schema(
    [
        *(("image", pa.int64()), ("method", pa.string())),
        *((name, pa.float64()) for name in ("border_share", "corner_share", "centre_share", "disagreement")),
    ]
)

Progress = Callable[[int], None]  # images done since the last call


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a few images have to say."""

    rows: NDArray[np.int64]
    shares: dict[str, dict[str, NDArray[np.floating]]]  # group -> measure -> (n,)
    disagreement: NDArray[np.floating]  # (n,)
    grids: dict[str, Planes]  # group -> (n, GRID, GRID), shares of the absolute attribution


@dataclass(frozen=True, slots=True)
class Survey:
    """A run's maps in numbers: one row per image and method in `places`, one mean map per class and group."""

    places: pa.Table
    mean_maps: dict[str, dict[int, Planes]]  # group -> class -> (GRID, GRID)

    def means_of(self, kind: int, view: View) -> list[Planes | None]:
        """The mean maps of one class in the order in which the run's methods are pictured."""
        return [self.mean_maps.get(spec.group, {}).get(kind) for spec in view.pictured]


def survey(
    view: View,
    classes: NDArray[np.int64],
    *,
    on_chunk: Callable[[Chunk, dict[str, Planes]], None] | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Read every map once. `classes` (images,) says whose mean map an image joins, -1 for none's; `on_chunk` also gets the planes."""
    chunks: list[Chunk] = []
    sums: dict[str, dict[int, Planes]] = {spec.group: {} for spec in view.pictured}
    counts: dict[str, dict[int, int]] = {spec.group: {} for spec in view.pictured}

    def look(rows: list[int]) -> Chunk:
        planes = {spec.group: view.planes(spec.group, rows) for spec in view.pictured}
        chunk = _looked_at(np.array(rows), planes)
        if on_chunk:
            on_chunk(chunk, planes)
        return chunk

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in _in_turn(pool, look, _slices(view)):
            for group, grids in chunk.grids.items():
                for row, grid in zip(chunk.rows.tolist(), grids, strict=True):
                    if (kind := int(classes[row])) >= 0 and np.isfinite(grid).all():
                        sums[group][kind] = sums[group].get(kind, 0) + grid
                        counts[group][kind] = counts[group].get(kind, 0) + 1
            chunks.append(Chunk(chunk.rows, chunk.shares, chunk.disagreement, {}))
            if progress:
                progress(len(chunk.rows))
    means: dict[str, dict[int, Planes]] = {
        group: {kind: total / counts[group][kind] for kind, total in by_class.items()}
        for group, by_class in sums.items()
    }
    return Survey(_places(view, chunks), means)


def _slices(view: View) -> Iterator[list[int]]:
    for unit in sorted(view.run.committed()):
        rows = view.run.unit_rows(unit)
        for first in range(0, len(rows), CHUNK):
            yield list(rows[first : first + CHUNK])


def _in_turn(
    pool: ThreadPoolExecutor, task: Callable[[list[int]], Chunk], slices: Iterator[list[int]]
) -> Iterator[Chunk]:
    """Results in order, with no more under way than keeps the threads busy: a run is larger than memory."""
    ahead = list(itertools.islice(slices, 2 * (os.cpu_count() or 1)))
    pending = [pool.submit(task, rows) for rows in ahead]
    while pending:
        result = pending.pop(0).result()
        pending += [pool.submit(task, rows) for rows in itertools.islice(slices, 1)]
        yield result


def _looked_at(rows: NDArray[np.int64], planes: dict[str, Planes]) -> Chunk:
    shares = {group: place_shares(values) for group, values in planes.items()}
    return Chunk(
        rows, shares, _disagreement(planes, len(rows)), {group: _grids(values) for group, values in planes.items()}
    )


def _grids(values: Planes) -> Planes:
    magnitude = np.abs(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = magnitude / magnitude.sum(axis=(1, 2), keepdims=True)
    return np.stack(
        [enlarge(each, (GRID, GRID)) if np.isfinite(each).all() else np.full((GRID, GRID), np.nan) for each in unit]
    )


def _disagreement(planes: dict[str, Planes], count: int) -> NDArray[np.floating]:
    """1 - mean rank correlation of where two methods put their absolute attribution; NaN with fewer than two methods."""
    coarse = [
        np.stack([enlarge(np.abs(each), (AGREEMENT_GRID, AGREEMENT_GRID)) for each in values])
        for values in planes.values()
    ]
    missing = [np.isnan(values).any(axis=(1, 2)) for values in planes.values()]
    pairs = [
        np.where(missing[a] | missing[b], np.nan, spearman(coarse[a], coarse[b]))
        for a, b in itertools.combinations(range(len(coarse)), 2)
    ]
    return 1 - np.mean(pairs, axis=0) if pairs else np.full(count, np.nan)


def _places(view: View, chunks: list[Chunk]) -> pa.Table:
    parts = [PLACES_SCHEMA.empty_table()]
    for chunk in chunks:
        for spec in view.pictured:
            columns = {
                "image": chunk.rows,
                "method": [spec.expression] * len(chunk.rows),
                **chunk.shares[spec.group],
                "disagreement": chunk.disagreement,
            }
            table = pa.table(
                {name: pa.array(values, from_pandas=True) for name, values in columns.items()}, PLACES_SCHEMA
            )
            parts.append(table.filter(table["border_share"].is_valid()))
    return pa.concat_tables(parts)
