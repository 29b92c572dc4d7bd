"""Occlusion in Captum's form: a window and a stride for each input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from attribution.bundle import bundled, parts_of
from attribution.captum_names.asked import Asked
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.formula import Arguments
from attribution.captum_names.perturbed import asking_of
from attribution.captum_names.progress import progress
from attribution.methods.occlusion import Occlusion
from attribution.regions import sliding_windows
from attribution.site import Input

Sizes = tuple[int, ...]


def occlusion(owner: Any, given: Arguments) -> Any:
    """The fall of the score when a sliding window is replaced by the baseline, averaged over the windows on each feature."""
    asked = Asked(owner, given)
    shapes = [tuple(part.shape[1:]) for part in asked.inputs.parts]
    windows = _each(given["sliding_window_shapes"], shapes, "sliding_window_shapes")
    strides = _each(1 if given["strides"] is None else given["strides"], shapes, "strides")
    asking = asking_of(asked, None)
    parts, references = parts_of(asked.x.contiguous()), parts_of(asked.baseline.contiguous())
    by_part: list[list[Tensor]] = []
    total = sum(1 + len(list(sliding_windows(*own))) for own in zip(shapes, windows, strides, strict=True))
    with progress(owner, total, is_shown=given["show_progress"]) as tick:
        for number, (window, stride) in enumerate(zip(windows, strides, strict=True)):
            method = Occlusion(window=window, stride=stride)
            sites = [_alone(site, parts, number) for site in asking.sites(tick)]
            by_part.append([method.attribute(site, parts[number], references[number]) for site in sites])
    columns = [bundled(column) for column in zip(*by_part, strict=True)]
    return asked.packed(asking.laid_out(columns, keeps_outputs=False))


def _each(given: Any, shapes: list[Sizes], name: str) -> list[Sizes]:
    """A size for each dimension of each input. A number is for all dimensions, numbers alone for the only input."""
    alone = isinstance(given, int) or (isinstance(given, tuple) and len(shapes) == 1 and isinstance(given[0], int))
    values = (given,) * len(shapes) if alone else tuple(given)
    sizes = [
        (value,) * len(shape) if isinstance(value, int) else tuple(value)
        for value, shape in zip(values, shapes, strict=False)
    ]
    if len(values) != len(shapes) or [len(own) for own in sizes] != [len(shape) for shape in shapes]:
        raise ArgumentError(
            f"{name}={given!r} does not fit inputs of shapes {shapes}: give a size for each dimension of each"
        )
    return sizes


def _alone(site: Input, parts: tuple[Tensor, ...], number: int) -> Input:
    """The score as a function of one input, the others as they are."""
    model: Callable[..., Any] = site.explained.model

    def of_one(part: Tensor) -> Any:
        return model(*(part if i == number else other for i, other in enumerate(parts)))

    return Input(replace(site.explained, model=of_one))
