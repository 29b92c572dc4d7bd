"""`show`: a few images of a run with their maps, as a panel or a contact sheet."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from attribution.visualization import Entry, Map, contact_sheet, panel
from jobs.views import View
from storage.records import ArraySpec
from storage.run import Run

DEFAULT_LIMIT = 12
_COMMA = re.compile(r",(?![^(]*\))")  # between methods, not between their parameters


class ShowError(ValueError):
    """What was asked for cannot be shown; the message says what can."""


def show(
    run: Run,
    images: Sequence[str] = (),
    *,
    where: str | None = None,
    order: str | None = None,
    limit: int | None = None,
    methods: Sequence[str] = (),
    scale: Literal["image", "shared"] = "image",
) -> Figure:
    """One image as a panel, several as a contact sheet. `images` are row numbers or keys; `where` and `order` are SQL over the summary."""
    view = View(run)
    rows = chosen_rows(run, images, where=where, order=order, limit=limit)
    specs = chosen_methods(view, methods)
    numbers = view.numbers(rows)
    pictures = view.photographs(rows)
    maps = {spec.group: run.attributions(spec.group)[rows] for spec in specs}
    entries = []
    for position, row in enumerate(rows):
        shown = tuple(
            Map(spec.expression, maps[spec.group][position], map_caption(numbers.get((row, spec.expression))))
            for spec in specs
        )
        first = next((numbers[row, spec.expression] for spec in run.arrays if (row, spec.expression) in numbers), None)
        entries.append(Entry(image=pictures[position], maps=shown, caption=image_caption(view, row, first)))
    if len(entries) == 1:
        return panel(entries[0].image, entries[0].maps, scale=scale, caption=entries[0].caption)
    return contact_sheet(entries, scale=scale)


def chosen_rows(
    run: Run, images: Sequence[str], *, where: str | None, order: str | None, limit: int | None
) -> list[int]:
    """Row numbers of what was named, or of what the SQL selects."""
    if images and (where or order):
        raise ShowError("name images, or select them with --where and --order; not both")
    if images:
        return [_row(run, each) for each in images][: limit or None]
    if not (where or order):
        raise ShowError(
            "no image named; give a row number, a key, or --where (try: --where 'prediction <> label' --limit 12)"
        )
    condition, ranking = (
        f"where {where}" if where else "",
        f"row_number() over (order by {order})" if order else "image",
    )
    # One row an image: with several methods, an image counts at its best place in the order. Runs in `query`'s read-only sandbox.
    table = run.sql(
        f"with placed as (select image, {ranking} as place from summary {condition}) "  # noqa: S608  # SQL is what was asked for
        f"select image from placed group by image order by min(place), image limit {int(limit or DEFAULT_LIMIT)}"
    )
    rows: list[int] = table["image"].to_pylist()
    if not rows:
        raise ShowError(f"no image has {where}" if where else "this run has no finished image yet")
    return rows


def chosen_methods(view: View, names: Sequence[str]) -> tuple[ArraySpec, ...]:
    """Arrays by group, method name or expression; all that lie over the image where none is named."""
    if view.run.record.store == "none":
        raise ShowError("this run was made with --store none: it has summaries and no maps")
    if not names:
        if not view.pictured:
            raise ShowError("none of this run's maps lies over the image")
        return view.pictured
    found: list[ArraySpec] = []
    for name in (part.strip() for each in names for part in _COMMA.split(each)):
        matches = [
            spec for spec in view.pictured if name in (spec.group, spec.expression, spec.expression.partition("(")[0])
        ]
        if not matches:
            raise ShowError(
                f"no maps of {name!r} to show; this run has {', '.join(spec.group for spec in view.pictured) or 'none'}"
            )
        found += [spec for spec in matches if spec not in found]
    return tuple(found)


def image_caption(view: View, row: int, numbers: dict[str, Any] | None) -> str:
    key = view.run.index["key"][row].as_py()
    if numbers is None:
        return f"{key}\nnot done, or failed (see the run's failures)"
    predicted, label = numbers["prediction"], numbers["label"]
    lines = [str(key)]
    if predicted is not None:
        lines.append(f"predicted {view.class_name(predicted)} ({_percent(numbers['probability'])})")
    if label is not None and label != predicted:
        lines.append(f"is {view.class_name(label)}")
    return "\n".join(lines)


def map_caption(numbers: dict[str, Any] | None) -> str:
    """The target's probability where the map explains another class, the sum, and how far it misses completeness."""
    if numbers is None:
        return "no answer"
    parts = [f"sum {numbers['attribution_sum']:.4g}"]
    if numbers["convergence_delta"] is not None:
        parts.append(f"completeness off by {abs(numbers['convergence_delta']):.2g}")
    if numbers["target"] is not None and numbers["target"] != numbers["prediction"]:
        parts.append(f"for class {numbers['target']} ({_percent(numbers['target_probability'])})")
    return ", ".join(parts)


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f}\u00a0%"  # never torn at a line end


def _row(run: Run, name: str) -> int:
    """A row number or a key; a key that looks like a number is found where no such row exists."""
    if name.isdecimal() and int(name) < run.image_count:
        return int(name)
    position = pc.index(run.index["key"], pa.scalar(name, run.index.schema.field("key").type)).as_py()
    if position < 0:
        raise ShowError(
            f"no image {name!r}: rows are 0 to {run.image_count - 1}, keys are like {run.index['key'][0].as_py()!r}"
        )
    return int(run.index["image"][position].as_py())
