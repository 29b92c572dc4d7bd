"""Everything the report's page knows, as JSON: columns of numbers by image and method, and the words around them."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.class_statistics import METRICS
from jobs.measures import places
from jobs.run_page import run_page
from jobs.survey import Survey
from jobs.views import View

DIGITS = 4  # significant: what a reader of the page can use
PLACES = ("border_share", "corner_share", "centre_share")
Column = list[Any]


def payload(view: View, found: Survey, statistics: pa.Table, mode: Literal["static", "serve"]) -> dict[str, Any]:
    """The page's data. Images without any finished method are left to the failures."""
    run = view.run
    summary = run.summary()
    rows = np.unique(summary["image"].to_numpy())
    at = np.full(run.image_count, -1)
    at[rows] = np.arange(len(rows))
    images = _images(summary, found.places, rows, at)
    groups = list(view.pictured or run.arrays)
    values = {spec.group: _values(summary, found.places, spec.expression, at, len(rows)) for spec in groups}
    classes = sorted({number for name in ("label", "prediction") for number in images[name] if number is not None})
    return {
        "mode": mode,
        **run_page(view, summary, images),
        "methods": [{"group": spec.group, "expression": spec.expression, "name": spec.group} for spec in groups],
        "classes": {number: view.class_name(number) for number in classes},
        "images": images,
        "metrics": _metrics(images, values),
        "values": values,
        "overall": _overall(statistics, groups),
        "perClass": _per_class(statistics, groups, images, found),
        "areas": {f"{name}_share": float(weight.mean()) for name, weight in places(100, 100).items()},
    }


def rounded(values: NDArray[Any]) -> Column:
    """Floats with few digits, None for what is missing: small JSON without NaN."""
    values = np.asarray(values, np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(divide="ignore"):
        places = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    places = np.where(np.isfinite(places), places, 0)
    # By whole powers of ten, so that the quotient is the float nearest to the short decimal and prints as it.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    short: Column = (np.round(values * up / down) * down / up).tolist()
    return [None if math.isnan(number) else number for number in short]


def _images(
    summary: pa.Table, places_table: pa.Table, rows: NDArray[np.int64], at: NDArray[np.int64]
) -> dict[str, Column]:
    image = summary["image"].to_numpy()
    first = np.full(len(rows), -1)
    first[at[image][::-1]] = np.arange(len(image))[::-1]
    per_image = summary.take(pa.array(first))
    disagreement = np.full(len(rows), np.nan)
    disagreement[at[places_table["image"].to_numpy()]] = _floats(places_table["disagreement"])
    return {
        "image": rows.tolist(),
        "key": per_image["key"].to_pylist(),
        "label": per_image["label"].to_pylist(),
        "prediction": per_image["prediction"].to_pylist(),
        "probability": rounded(_floats(per_image["probability"])),
        "disagreement": rounded(disagreement),
    }


def _values(
    summary: pa.Table, places_table: pa.Table, expression: str, at: NDArray[np.int64], count: int
) -> dict[str, Column]:
    """Metric -> one number an image, for one method."""
    columns = {}
    for table in (summary, places_table):
        mine = table.filter(pa.array(np.array(table["method"].to_pylist(), dtype=object) == expression))
        position = at[mine["image"].to_numpy()]
        for name in (name for name in METRICS if name in table.column_names and name != "probability"):
            column = np.full(count, np.nan)
            column[position] = _floats(mine[name])
            columns[name] = column
    columns["completeness_error"] = np.abs(columns["convergence_delta"])
    return {name: rounded(column) for name, column in columns.items() if np.isfinite(column).any()}


def _metrics(images: Mapping[str, Column], values: Mapping[str, Mapping[str, Column]]) -> list[str]:
    """Everything that images can be sorted by: their own numbers, then those of methods."""
    known = any(value is not None for value in images["disagreement"])
    own = ["probability", "disagreement"] if known else ["probability"]
    return list(dict.fromkeys([*own, *(name for columns in values.values() for name in columns)]))


def _overall(statistics: pa.Table, groups: list[Any]) -> dict[str, dict[str, Column]]:
    groups_of = {spec.expression: spec.group for spec in groups}
    overall: dict[str, dict[str, Column]] = {spec.group: {} for spec in groups}
    for each in statistics.to_pylist():
        if each["class"] is None and each["method"] in groups_of:
            overall[groups_of[each["method"]]][each["metric"]] = _interval(each)
    return overall


def _per_class(
    statistics: pa.Table, groups: list[Any], images: Mapping[str, Column], found: Survey
) -> list[dict[str, Any]]:
    groups_of = {spec.expression: spec.group for spec in groups}
    shares: dict[int, dict[str, dict[str, Column]]] = {}
    for each in statistics.to_pylist():
        if each["class"] is not None and each["metric"] in PLACES and each["method"] in groups_of:
            shares.setdefault(each["class"], {}).setdefault(groups_of[each["method"]], {})[each["metric"]] = _interval(
                each
            )
    verdicts: dict[int, list[bool | None]] = {}
    for label, prediction in zip(images["label"], images["prediction"], strict=True):
        verdicts.setdefault(prediction if label is None else label, []).append(
            None if label is None else label == prediction
        )
    lines = []
    for number, verdict in sorted((item for item in verdicts.items() if item[0] is not None), key=lambda item: item[0]):
        judged = [each for each in verdict if each is not None]
        lines.append(
            {
                "id": number,
                "n": len(verdict),
                "right": sum(judged) / len(judged) if judged else None,
                "places": shares.get(number, {}),
                "hasMeans": any(number in by_class for by_class in found.mean_maps.values()),
            }
        )
    return lines


def _interval(each: Mapping[str, Any]) -> Column:
    return rounded(
        np.array([each[name] if each[name] is not None else np.nan for name in ("mean", "ci_low", "ci_high")])
    )


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
