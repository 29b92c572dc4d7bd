"""Panels for people: original, heat map and overlay side by side, on each map's own scale or on one shared scale."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attribution.visualization.canvas import bare, image_bytes, new_figure
from attribution.visualization.scale import Array, colours, enlarge, full_colour, is_one_sided, normalise, plane

Scale = Literal["image", "shared"]
_INK, _FAINT = "#222222", "#6b6b6b"
LEVELS = 255  # of strength, of either sign: what bytes can tell apart


@dataclass(frozen=True, slots=True)
class Map:
    """One method's attribution of one image, (C, H, W) or (H, W) at any resolution, with its title and caption."""

    title: str
    array: Array
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of a contact sheet with the maps of the methods that are shown beside it."""

    image: NDArray[Any]  # (H, W, 3)
    maps: tuple[Map, ...]
    caption: str = ""


def panel(
    image: NDArray[Any], maps: Sequence[Map], *, scale: Scale = "image", caption: str = "", title: str = ""
) -> Figure:
    """The original beside each map's heat map and overlay; one method in one row, several as columns under each other.

    `scale="shared"` gives all maps one colour scale, `"image"` each its own.
    """
    pixels = image_bytes(image)
    scales = _scales([plane(each.array) for each in maps], scale)
    if len(maps) <= 1:
        return _one_row(pixels, maps, scales, caption, title)
    figure = new_figure((2.5 * (1 + len(maps)), 6.1), layout="constrained", dpi=110)
    grid = figure.subplots(2, 1 + len(maps))
    _original(grid[0, 0], pixels, "original", "")
    _words(grid[1, 0], caption)
    for column, (each, full) in enumerate(zip(maps, scales, strict=True), start=1):
        _heat(grid[0, column], each, full, pixels.shape[:2])
        _headline(grid[0, column], each.title)
        _overlay(grid[1, column], pixels, each, full)
        _footline(grid[1, column], each.caption)
    if title:
        figure.suptitle(title, color=_INK)
    return figure


def contact_sheet(
    entries: Sequence[Entry], *, scale: Scale = "image", columns: int | None = None, title: str = ""
) -> Figure:
    """Many images at a glance, each as its original followed by one overlay per method.

    `scale="shared"` gives each method one scale over all images, so that strong and weak maps can be told apart.
    """
    if not entries:
        raise ValueError("no image to show; widen the selection")
    width = 1 + max(len(entry.maps) for entry in entries)
    across = columns or max(1, min(len(entries), 6 // width))
    rows = -(-len(entries) // across)
    figure = new_figure((1.9 * width * across, 2.3 * rows + (0.4 if title else 0)), layout="constrained", dpi=110)
    grid = figure.subplots(rows, width * across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    scales = _scales_by_method(entries, scale, width - 1)
    for number, entry in enumerate(entries):
        row, first = divmod(number, across)
        pixels = image_bytes(entry.image)
        cells = grid[row, first * width : (first + 1) * width]
        _original(cells[0], pixels, "", entry.caption)
        for cell, each, full in zip(cells[1:], entry.maps, scales[number], strict=False):
            _overlay(cell, pixels, each, full)
            _headline(cell, each.title if row == 0 else "")
            _footline(cell, each.caption)
    if title:
        figure.suptitle(title, color=_INK)
    return figure


def save(figure: Figure, target: str | Path | BinaryIO) -> None:
    """Write the figure as the file's ending says (png, pdf, svg; a stream takes png), without a time stamp so that equal figures are equal files."""
    form = (Path(target).suffix[1:] or "png") if isinstance(target, str | Path) else "png"
    undated: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
        form, {}
    )
    figure.savefig(target, format=form, metadata=undated, facecolor="white")


def _one_row(
    pixels: NDArray[np.uint8], maps: Sequence[Map], scales: Sequence[float], caption: str, title: str
) -> Figure:
    figure = new_figure((3.1 * (1 + 2 * len(maps)), 3.7), layout="constrained", dpi=110)
    row = figure.subplots(1, 1 + 2 * len(maps), squeeze=False)[0]
    _original(row[0], pixels, title or "original", caption)
    for each, full in zip(maps, scales, strict=True):
        _heat(row[1], each, full, pixels.shape[:2])
        _headline(row[1], each.title, width=44)
        _footline(row[1], each.caption)
        _overlay(row[2], pixels, each, full)
        _headline(row[2], "overlay")
    return figure


def _scales(planes: Sequence[Array], scale: Scale) -> list[float]:
    if scale not in {"image", "shared"}:
        raise ValueError(f"scale {scale!r} is neither 'image' nor 'shared'")
    if scale == "shared":
        return [max(map(full_colour, planes), default=0.0)] * len(planes)
    return [full_colour(values) for values in planes]


def _scales_by_method(entries: Sequence[Entry], scale: Scale, method_count: int) -> list[list[float]]:
    """Per entry one scale a method; shared means over the images of one method: methods differ in unit."""
    by_method = [
        _scales([plane(entry.maps[m].array) for entry in entries if m < len(entry.maps)], scale)
        for m in range(method_count)
    ]
    columns = [iter(scales) for scales in by_method]
    return [[next(columns[m]) for m in range(len(entry.maps))] for entry in entries]


def _original(axes: Axes, pixels: NDArray[np.uint8], head: str, foot: str) -> None:
    bare(axes).set_axis_on()
    axes.imshow(pixels)
    _headline(axes, head)
    _footline(axes, foot)


def _heat(axes: Axes, each: Map, full: float, size: tuple[int, int]) -> None:
    bare(axes)
    values = plane(each.array)
    shown = normalise(_to_size(values, size), scale=full)
    axes.imshow(colours(shown, one_sided=is_one_sided(values)))


def _overlay(axes: Axes, pixels: NDArray[np.uint8], each: Map, full: float) -> None:
    bare(axes).set_axis_on()
    axes.imshow(overlay(pixels, each.array, full))


def overlay(image: NDArray[Any], array: Array, full: float | None = None) -> NDArray[np.uint8]:
    """The image in grey with the map's colours over it, the stronger the more opaque: (H, W, 3) bytes."""
    pixels = image_bytes(image)
    values = plane(array)
    one_sided = is_one_sided(values)
    shown = normalise(_to_size(values, pixels.shape[:2]), scale=full_colour(values) if full is None else full)
    tint, transparency = _glaze(one_sided=one_sided)
    level = np.rint(shown * LEVELS).astype(np.intp) + LEVELS
    # A softer range, so that dark and bright places carry colour alike; paler under the dots of a signed map.
    grey = pixels.mean(axis=2, dtype=np.float32) * (0.6 if one_sided else 0.4) + (70 if one_sided else 140)
    return np.asarray(tint[level] + (transparency[level] * grey)[:, :, None]).astype(np.uint8)


@lru_cache(2)
def _glaze(*, one_sided: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each level of strength from -1 to 1 the colour that is laid on, and how much of the image shines through."""
    strength = np.arange(-LEVELS, LEVELS + 1) / LEVELS
    # From the middle of the colour map on: opacity says how little there is, a pale or black tint would only veil the image.
    strong = np.sign(strength) * (0.3 + 0.7 * np.abs(strength))
    tint = colours(strong[None], one_sided=one_sided)[0, :, :3]
    # Signed maps are dots that need the help; one-sided ones have no zero to leave clear, so that a weak half would veil everything.
    opacity = 0.95 * np.abs(strength) ** (1.0 if one_sided else 0.5)
    return (opacity[:, None] * tint).astype(np.float32), (1 - opacity).astype(np.float32)


def _to_size(values: Array, size: tuple[int, int]) -> Array:
    return values if values.shape == size else enlarge(values, size)


def _headline(axes: Axes, text: str, width: int = 30) -> None:
    if len(text) > width:
        text = text.replace("(", "\n(", 1)  # a method expression breaks best before its parameters
    axes.set_title(_wrapped(text, width), fontsize=9, color=_INK, parse_math=False)


def _footline(axes: Axes, text: str) -> None:
    axes.set_xlabel(_wrapped(text, 34), fontsize=8, color=_FAINT, parse_math=False)


def _words(axes: Axes, text: str) -> None:
    bare(axes)
    axes.text(0, 1, _wrapped(text, 32), transform=axes.transAxes, va="top", fontsize=9, color=_INK, parse_math=False)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width, break_long_words=False))
