"""The report's first page in words and a few numbers: what was asked, how it went, what failed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.views import View


def run_page(view: View, summary: pa.Table, images: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """`images` holds columns of the finished images, label and prediction among them."""
    return {
        "title": _title(view),
        "subtitle": ", ".join(spec.expression for spec in view.run.arrays),
        "tiles": _tiles(view, summary, images),
        "spec": _spec_lines(view),
        "command": view.run.record.origin.get("command"),
        "throughput": throughput(view),
        "failures": failure_reasons(view.run.failures()),
    }


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


def _title(view: View) -> str:
    """A path says where, its last name says what."""
    asked = view.run.spec.get("spec", {})
    dataset = view.run.record.origin.get("dataset", {}).get("name") or asked.get("dataset", "a data set")
    return f"{asked.get('model', 'a model')} on {dataset}"


def _tiles(view: View, summary: pa.Table, images: Mapping[str, Sequence[Any]]) -> list[list[str]]:
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
    tiles.append(["Compute time", _duration(pc.sum(summary["seconds"]).as_py() or 0.0)])
    return tiles


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


def _spec_lines(view: View) -> list[list[str]]:
    """Everything that determines the maps, then what they were made on; where workers ran and how long they waited is left to run.json."""
    asked, identity = view.run.spec.get("spec", {}), view.run.spec.get("identity", {})
    origin = {name: value for name, value in view.run.record.origin.items() if name not in _TOLD_ELSEWHERE}
    lines = {
        "run": view.run.spec.get("run_id"),
        "stored at": view.run.uri,
        **{name: value for name, value in asked.items() if name not in _PLACEMENT},
        "dataset": _joined(asked.get("dataset"), origin.pop("dataset", None)),
        "model": _joined(asked.get("model"), origin.pop("model", None)),
        "methods": [spec.expression for spec in view.run.arrays],
        **{name: identity[name] for name in ("preprocessing", "weights", "index") if name in identity},
        **origin,
    }
    return [[name.replace("_", " "), _words(value)] for name, value in lines.items() if value not in (None, [], {}, "")]


_TOLD_ELSEWHERE = {"class_names", "class_names_source", "command", "asked", "placement"}
_PLACEMENT = {
    *("version", "output", "workers", "data_root", "gpus_per_worker", "max_failures"),
    *("shard_timeout_s", "stall_timeout_s", "window_bytes", "trust_checkpoint"),
}


def _joined(asked: Any, found: Any) -> str | None:
    """What was asked for, and in brackets what it turned out to be."""
    if not isinstance(found, dict):
        return None if asked is None else _words(asked)
    known = ", ".join(
        f"{name.replace('_', ' ')} {_words(value)}" for name, value in found.items() if value and value != asked
    )
    return f"{_words(asked)} ({known})" if known else _words(asked)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
