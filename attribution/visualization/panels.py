"""Panels for people: original, heat map and overlay side by side, on each map's own scale or on one shared scale."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attribution.visualization.canvas import image_bytes
from attribution.visualization.scale import Array, colours, enlarge, full_colour, is_one_sided, normalise, plane
from attribution.visualization.sheet import Cell, sheet

Scale = Literal["image", "shared"]
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
    heats = [_heat(each, full, pixels.shape[:2]) for each, full in zip(maps, scales, strict=True)]
    overlays = [overlay(pixels, each.array, full) for each, full in zip(maps, scales, strict=True)]
    if len(maps) <= 1:
        row = [Cell(pixels, "original", caption)]
        for each, heat, over in zip(maps, heats, overlays, strict=True):
            row += [Cell(heat, each.title, each.caption), Cell(over, "overlay")]
        return sheet([row], width=3.0, title=title)
    above = [Cell(heat, each.title) for each, heat in zip(maps, heats, strict=True)]
    below = [Cell(over, "", each.caption) for each, over in zip(maps, overlays, strict=True)]
    return sheet([[Cell(pixels, "original"), *above], [Cell(None, "", caption), *below]], width=2.4, title=title)


def contact_sheet(
    entries: Sequence[Entry], *, scale: Scale = "image", columns: int | None = None, title: str = ""
) -> Figure:
    """Many images at a glance, each as its original followed by one overlay per method.

    `scale="shared"` gives each method one scale over all images, so that strong and weak maps can be told apart.
    """
    if not entries:
        raise ValueError("no image to show; widen the selection")
    width = 1 + max(len(entry.maps) for entry in entries)
    across = columns or _across(len(entries), width)
    scales = _scales_by_method(entries, scale, width - 1)
    rows: list[list[Cell]] = []
    for number, entry in enumerate(entries):
        if number % across == 0:
            rows.append([])
        pixels = image_bytes(entry.image)
        rows[-1].append(Cell(pixels, "", entry.caption))
        for each, full in zip(entry.maps, scales[number], strict=True):
            rows[-1].append(Cell(overlay(pixels, each.array, full), each.title if len(rows) == 1 else "", each.caption))
        rows[-1] += [Cell(None)] * (width - 1 - len(entry.maps))
    return sheet(rows, width=1.8, title=title)


def _across(count: int, width: int) -> int:
    """So many images beside each other that the sheet comes out about as high as wide, and not wider than a page shows."""
    widest = max(1, min(count, 8 // width))
    return min(range(1, widest + 1), key=lambda across: abs(np.log(width * across / -(-count // across))))


def save(figure: Figure, target: str | Path | BinaryIO) -> None:
    """Write the figure as the file's ending says (png, pdf, svg; a stream takes png), without a time stamp so that equal figures are equal files."""
    form = (Path(target).suffix[1:] or "png") if isinstance(target, str | Path) else "png"
    undated: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
        form, {}
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a key may be in any script; boxes stand for it
        figure.savefig(target, format=form, metadata=undated, facecolor="white")


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


def _heat(each: Map, full: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    values = plane(each.array)
    return colours(normalise(_to_size(values, size), scale=full), one_sided=is_one_sided(values))


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
