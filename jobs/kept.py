"""What a report found out about a run's maps, kept with the run: `query` knows it by these names, and `serve` starts from it."""

from contextlib import suppress

import numpy as np
import pyarrow as pa

from jobs.class_statistics import SCHEMA
from jobs.survey import GRID, PLACES_SCHEMA, Survey
from jobs.views import Planes, View
from storage.errors import StoreError
from storage.tensors import round_mantissa

PLACES = "places"
STATISTICS = "class_statistics"
MEAN_MAPS = "mean_maps"
MEAN_MAPS_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("class", pa.int32()),
        ("map", pa.list_(pa.float32())),  # GRID x GRID shares of the absolute attribution, row by row
    ]
)
KEEP_BITS = 10  # as maps are stored: a thousand classes take half the bytes


def keep(view: View, found: Survey, statistics: pa.Table) -> None:
    """Store a survey with the run, where `query` and `serve` find it; a run that can't be written to does without."""
    with suppress(StoreError, OSError):
        view.run.put_table(PLACES, found.places)
        view.run.put_table(STATISTICS, statistics)
        view.run.put_table(MEAN_MAPS, _table(view, found.mean_maps))


def kept(view: View) -> tuple[Survey, pa.Table]:
    """What an earlier report found and its statistics, without reading maps; empty where there was none."""
    names = view.run.tables()
    places = view.run.table(PLACES) if PLACES in names else PLACES_SCHEMA.empty_table()
    means = _mean_maps(view, view.run.table(MEAN_MAPS)) if MEAN_MAPS in names else {}
    return Survey(places, means), view.run.table(STATISTICS) if STATISTICS in names else SCHEMA.empty_table()


def _table(view: View, mean_maps: dict[str, dict[int, Planes]]) -> pa.Table:
    rows = [
        {"method": spec.expression, "class": kind, "map": round_mantissa(mean, KEEP_BITS).ravel()}
        for spec in view.pictured
        for kind, mean in sorted(mean_maps[spec.group].items())
    ]
    return pa.Table.from_pylist(rows, MEAN_MAPS_SCHEMA)


def _mean_maps(view: View, table: pa.Table) -> dict[str, dict[int, Planes]]:
    groups = {spec.expression: spec.group for spec in view.pictured}
    means: dict[str, dict[int, Planes]] = {group: {} for group in groups.values()}
    flat = table["map"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, GRID, GRID)
    for method, kind, mean in zip(table["method"].to_pylist(), table["class"].to_pylist(), flat, strict=True):
        if method in groups:
            means[groups[method]][kind] = np.asarray(mean)
    return means
