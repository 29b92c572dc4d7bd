"""A run's summary by class: quantiles and bootstrapped means of every metric, for each method."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

METRICS = (
    *("probability", "target_probability", "attribution_sum", "abs_sum", "positive_sum", "negative_sum", "abs_max"),
    *("gini", "entropy", "centre_y", "centre_x", "convergence_delta", "infidelity", "sensitivity_max", "seconds"),
    *("border_share", "corner_share", "centre_share"),
)
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
DRAWS = 1000
DRAWN_AT_MOST = 10_000_000  # numbers drawn for one interval: with 50,000 images 200 draws settle a mean to a thousandth of its spread

Values = NDArray[np.floating]

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("class", pa.int32()),  # null: all classes together
        ("metric", pa.string()),
        ("count", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "ci_low", "ci_high", *QUANTILES)),
    ]
)


def bootstrap_interval(values: Values, name: str, level: float = 0.95) -> tuple[Values, Values]:
    """Percentile interval of the mean of each column of (n, k); the draws depend on `name` and on nothing else."""
    count = len(values)
    draws = max(200, min(DRAWS, DRAWN_AT_MOST // max(1, count)))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    at_once = max(1, 500_000 // max(1, count * values.shape[1]))
    means = np.concatenate(
        [
            values[rng.integers(0, count, (min(at_once, draws - first), count))].mean(axis=1)
            for first in range(0, draws, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def class_statistics(summary: pa.Table, places: pa.Table | None = None) -> pa.Table:
    """One row per method, class and metric, and one for all classes. The class is the label, or the prediction of an image without one."""
    table = summary if places is None else summary.join(places, ["image", "method"])
    metrics = [name for name in METRICS if name in table.column_names]
    values = np.column_stack([_numbers(table[name]) for name in metrics]) if metrics else np.empty((len(table), 0))
    labels, predictions = (_numbers(table[name]) for name in ("label", "prediction"))
    classes = np.where(np.isnan(labels), predictions, labels)
    methods = np.array(table["method"].to_pylist(), dtype=object)
    rows: list[dict[str, Any]] = []
    for method in dict.fromkeys(methods.tolist()):
        mine = np.asarray(methods == method, dtype=bool)
        rows += _described(values[mine], metrics, method, None)
        for kind in np.unique(classes[mine & np.isfinite(classes)]):
            rows += _described(values[mine & (classes == kind)], metrics, method, int(kind))
    return pa.Table.from_pylist(rows, SCHEMA)


def _described(values: Values, metrics: Sequence[str], method: str, kind: int | None) -> list[dict[str, Any]]:
    whole = np.asarray(np.isfinite(values).all(axis=0))
    low, high = np.full((2, len(metrics)), np.nan)
    if len(values) > 1:  # one image has no spread to draw from
        low[whole], high[whole] = bootstrap_interval(values[:, whole], f"{method} {kind}")
    rows = []
    for column, metric in enumerate(metrics):
        known = values[np.isfinite(values[:, column]), column]
        if not len(known):
            continue
        if len(known) > 1 and not whole[column]:  # some images have no such number: their metric is drawn by itself
            low[[column]], high[[column]] = bootstrap_interval(known[:, None], f"{method} {kind} {metric}")
        quantiles = dict(zip(QUANTILES, np.quantile(known, list(QUANTILES.values())).tolist(), strict=True))
        interval = {"ci_low": low[column], "ci_high": high[column]} if len(known) > 1 else {}
        rows.append(
            {
                "method": method,
                "class": kind,
                "metric": metric,
                "count": len(known),
                "mean": known.mean(),
                **interval,
                **quantiles,
            }
        )
    return rows


def _numbers(column: pa.ChunkedArray) -> Values:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
