"""`compare`: how far two runs, or two methods of one run, agree on each image; by class, and where they differ most."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attribution.visualization import enlarge
from jobs.class_statistics import QUANTILES
from jobs.measures import AGREEMENT
from jobs.views import Planes, View
from storage.records import ArraySpec
from storage.run import Run

TABLE = "comparisons"  # the name by which `query` knows what compare stored
CHUNK = 32  # images in memory at once and thread
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("image", "other_image")),
        *((name, pa.string()) for name in ("key", "method", "other_method", "other")),
        *((name, pa.int32()) for name in ("label", "prediction", "other_prediction")),
        *((name, pa.float64()) for name in AGREEMENT),
    ]
)


class CompareError(ValueError):
    """These two cannot be compared; the message says what can."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: an array of a run."""

    view: View
    spec: ArraySpec

    @property
    def name(self) -> str:
        return f"{self.view.run.uri} {self.spec.expression}"


def compare(
    run: Run, other: Run, *, methods: tuple[str, str] | None = None, progress: Callable[[int], None] | None = None
) -> pa.Table:
    """One row per image and pair of methods that both sides have; images are matched by key.

    Without `methods`, each method that both runs share is compared with itself.
    """
    tables = [
        _compared(Side(View(run), mine), Side(View(other), theirs), progress)
        for mine, theirs in pairs(run, other, methods)
    ]
    return pa.concat_tables(tables)


def pairs(run: Run, other: Run, methods: tuple[str, str] | None) -> list[tuple[ArraySpec, ArraySpec]]:
    """The arrays to hold against each other."""
    left, right = View(run).pictured, View(other).pictured
    if methods is not None:
        return [(_named(left, methods[0]), _named(right, methods[1]))]
    if run.uri == other.uri:
        if len(left) != 2:
            raise CompareError(
                f"a run against itself needs two of its methods; it has {', '.join(spec.group for spec in left) or 'none'}"
            )
        return [(left[0], left[1])]
    shared = [(mine, theirs) for mine in left for theirs in right if mine.expression == theirs.expression]
    if not shared and len(left) == len(right) == 1:
        return [(left[0], right[0])]
    if not shared:
        raise CompareError(
            f"the runs share no method: {', '.join(spec.expression for spec in left) or 'none'} against "
            f"{', '.join(spec.expression for spec in right) or 'none'}; name one of each"
        )
    return shared


def by_class(table: pa.Table) -> pa.Table:
    """Mean and quantiles of each measure by pair of methods and label; label null where images have none."""
    return _described(table, ["method", "other_method", "label"])


def overall(table: pa.Table) -> pa.Table:
    """Mean and quantiles of each measure by pair of methods."""
    return _described(table, ["method", "other_method"])


def movers(table: pa.Table, count: int = 10, measure: str = "spearman") -> pa.Table:
    """The images on which the two sides differ most."""
    order = worst_first(measure)
    return table.filter(table[measure].is_valid()).sort_by([(measure, order), ("image", "ascending")]).slice(0, count)


def worst_first(measure: str) -> Literal["ascending", "descending"]:
    """The direction in which a measure tells of less and less agreement; what is no measure is refused."""
    if measure not in AGREEMENT:
        raise CompareError(f"measure {measure!r} is none of {', '.join(AGREEMENT)}")
    return "descending" if measure.startswith("l2") else "ascending"


def _described(table: pa.Table, keys: list[str]) -> pa.Table:
    numbered = table.select(keys).append_column("row", pa.array(np.arange(len(table))))
    groups = numbered.group_by(keys).aggregate([("row", "list")]).sort_by([(key, "ascending") for key in keys])
    columns = {measure: np.asarray(table[measure].to_numpy(zero_copy_only=False)) for measure in AGREEMENT}
    rows: list[dict[str, Any]] = []
    for group in groups.to_pylist():
        members = group.pop("row_list")
        for measure, column in columns.items():
            values = column[members]
            if len(known := values[np.isfinite(values)]):
                quantiles = dict(zip(QUANTILES, np.quantile(known, list(QUANTILES.values())).tolist(), strict=True))
                rows.append(
                    {**group, "measure": measure, "count": len(known), "mean": float(known.mean()), **quantiles}
                )
    return pa.Table.from_pylist(rows) if rows else pa.table({})


def store(run: Run, table: pa.Table) -> None:
    """Keep a comparison with `run`, where `query` finds it as `comparisons`; it takes the place of an earlier one of the same pair."""
    if TABLE in run.tables():
        earlier = run.table(TABLE)
        fresh = {tuple(row.values()) for row in table.select(["other", "method", "other_method"]).to_pylist()}
        kept = [
            tuple(row.values()) not in fresh for row in earlier.select(["other", "method", "other_method"]).to_pylist()
        ]
        table = pa.concat_tables([earlier.filter(pa.array(kept)), table])
    run.put_table(TABLE, table)


def _named(specs: tuple[ArraySpec, ...], name: str) -> ArraySpec:
    for spec in specs:
        if name in (spec.group, spec.expression):
            return spec
    raise CompareError(f"no maps of {name!r}; there are {', '.join(spec.group for spec in specs) or 'none'}")


def _compared(mine: Side, theirs: Side, progress: Callable[[int], None] | None) -> pa.Table:
    matched = _matched(mine, theirs)
    if not matched:
        raise CompareError(f"no image is finished on both sides: {mine.name} and {theirs.name}")
    chunks = [matched[first : first + CHUNK] for first in range(0, len(matched), CHUNK)]
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    with ThreadPoolExecutor() as pool:
        for chunk, measured in zip(chunks, pool.map(lambda chunk: _measured(mine, theirs, chunk), chunks), strict=True):
            for name in columns.keys() - measured.keys():
                columns[name] += [pair[name] for pair in chunk]
            for name, values in measured.items():
                columns[name] += values.tolist()
            if progress:
                progress(len(chunk))
    return pa.table(
        {name: pa.array(values, SCHEMA.field(name).type, from_pandas=True) for name, values in columns.items()}, SCHEMA
    )


def _matched(mine: Side, theirs: Side) -> list[dict[str, Any]]:
    """Images that both sides have finished, by key."""
    right = {row["key"]: row for row in _finished(theirs)}
    return [
        {
            "image": row["image"],
            "other_image": right[row["key"]]["image"],
            "key": row["key"],
            "label": row["label"],
            "method": mine.spec.expression,
            "other_method": theirs.spec.expression,
            "other": theirs.view.run.uri,
            "prediction": row["prediction"],
            "other_prediction": right[row["key"]]["prediction"],
        }
        for row in _finished(mine)
        if row["key"] in right
    ]


def _finished(side: Side) -> Iterator[dict[str, Any]]:
    table = side.view.run.summary()
    mine = table.filter(pc.equal(table["method"], side.spec.expression))
    yield from mine.select(["image", "key", "label", "prediction"]).to_pylist()


def _measured(mine: Side, theirs: Side, chunk: list[dict[str, Any]]) -> dict[str, Planes]:
    """Maps of different resolution are compared at the finer one."""
    first = mine.view.planes(mine.spec.group, [pair["image"] for pair in chunk])
    second = theirs.view.planes(theirs.spec.group, [pair["other_image"] for pair in chunk])
    if first.shape != second.shape:
        size = (max(first.shape[1], second.shape[1]), max(first.shape[2], second.shape[2]))
        first, second = (np.stack([enlarge(plane, size) for plane in planes]) for planes in (first, second))
    return {name: measure(first, second) for name, measure in AGREEMENT.items()}
