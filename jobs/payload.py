"""Everything the report's page knows, as JSON: columns of numbers by image and method, and the words around them."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.class_statistics import METRICS
from jobs.measures import places
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
        "title": _title(run.spec),
        "subtitle": _subtitle(view),
        "tiles": _tiles(view, images, summary),
        "spec": _spec_lines(view),
        "command": run.record.origin.get("command"),
        "throughput": throughput(view),
        "failures": failure_reasons(run.failures()),
        "methods": [{"group": spec.group, "expression": spec.expression, "name": spec.group} for spec in groups],
        "classes": {number: view.class_name(number) for number in classes},
        "images": images,
        "metrics": _present({"disagreement": images["disagreement"]}) + _metric_names(values),
        "values": values,
        "overall": _overall(statistics, groups),
        "perClass": _per_class(statistics, groups, images, found),
        "areas": {f"{name}_share": float(mask.mean()) for name, mask in places(100, 100).items()},
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


def throughput(view: View) -> list[list[float]]:
    """Seconds since the first commit and images done by then."""
    known = sorted((when, len(view.run.unit_rows(unit))) for unit, when in view.run.commit_times().items())
    done = np.cumsum([count for _, count in known])
    points = [[when - known[0][0], int(total)] for (when, _), total in zip(known, done, strict=True)]
    step = max(1, len(points) // 400)  # more points than pixels tell nothing more
    return points[::step] if len(points) % step == 1 or step == 1 else [*points[::step], points[-1]]


def failure_reasons(failures: pa.Table) -> list[dict[str, Any]]:
    """Images by stage and reason, the most frequent first; messages that name their image are told apart by stage only."""
    reasons: dict[tuple[str, str], dict[str, Any]] = {}
    for each in failures.to_pylist():
        error = each["error"].replace(each["key"], "…")
        reason = reasons.setdefault(
            (each["stage"], error), {"stage": each["stage"], "error": error, "key": each["key"], "images": set()}
        )
        reason["images"].add(each["image"])
    listed = [{**reason, "images": None, "count": len(reason["images"])} for reason in reasons.values()]
    return sorted(listed, key=lambda reason: -reason["count"])[:50]


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


def _metric_names(values: Mapping[str, Mapping[str, Column]]) -> list[str]:
    return list(dict.fromkeys(name for columns in values.values() for name in columns))


def _present(columns: Mapping[str, Column]) -> list[str]:
    return ["probability", *(name for name, column in columns.items() if any(value is not None for value in column))]


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


def _title(spec: Mapping[str, Any]) -> str:
    asked = spec.get("spec", {})
    return f"{asked.get('model', 'a model')} on {asked.get('dataset', 'a data set')}"


def _subtitle(view: View) -> str:
    return ", ".join(spec.expression for spec in view.run.arrays)


def _tiles(view: View, images: Mapping[str, Column], summary: pa.Table) -> list[list[str]]:
    progress = view.run.progress()
    judged = [
        label == prediction
        for label, prediction in zip(images["label"], images["prediction"], strict=True)
        if label is not None
    ]
    tiles = [
        ["Images done", f"{progress.done:,}"],
        ["Failed", f"{progress.failed:,}"],
        ["Methods", str(len(view.run.arrays))],
    ]
    if progress.committed < progress.units:
        tiles.insert(1, ["Still to do", f"{progress.images - progress.done - progress.failed:,}"])
    if judged:
        tiles.append(["Predicted correctly", f"{100 * sum(judged) / len(judged):.1f} %"])
    work = float(np.nansum(_floats(summary["seconds"])))
    tiles.append(["Time of passes", _duration(work)])
    return tiles


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


def _spec_lines(view: View) -> list[list[str]]:
    asked, identity = view.run.spec.get("spec", {}), view.run.spec.get("identity", {})
    origin = {name: value for name, value in view.run.record.origin.items() if name not in {"class_names", "command"}}
    lines = {
        "run": view.run.spec.get("run_id"),
        "stored at": view.run.uri,
        **asked,
        **{f"resolved {name}": identity[name] for name in ("weights", "preprocessing", "index") if name in identity},
        **origin,
    }
    return [
        [name.replace("_", " "), _words(value)]
        for name, value in lines.items()
        if value not in (None, [], {}, "") and name != "version"
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items() if part is not None)
    return (
        ", ".join(map(_words, value))
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else json.dumps(value)
    )


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
