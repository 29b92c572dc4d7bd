"""Pictures with words above and below them in a grid whose lines are counted beforehand, so that none is cut or overlaps."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attribution.visualization.canvas import bare, new_figure

HEAD, FOOT = 9.0, 8.0  # points
LINE = 1.35  # of the size of the letters, from one line to the next
LETTER = 0.62  # of their size, wider than most: what fits by this count fits
GAP, MARGIN = 0.1, 0.08  # inches
_INK, _FAINT = "#222222", "#6b6b6b"


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture (H, W, 3 or 4), or None for words alone, with what stands above and below it."""

    pixels: NDArray[Any] | None
    head: str = ""
    foot: str = ""


def sheet(rows: Sequence[Sequence[Cell]], *, width: float, title: str = "") -> Figure:
    """The cells of each row beside each other, `width` inches each; rows are as high as their pictures and words."""
    columns = max(len(row) for row in rows)
    heights = [_height(row, width) for row in rows]
    total = (
        2 * MARGIN + columns * width + (columns - 1) * GAP,
        2 * MARGIN + sum(map(sum, heights)) + (len(rows) - 1) * GAP + (_lines(title, 2 * HEAD) if title else 0),
    )
    figure = new_figure(total, dpi=110)
    if title:
        figure.text(
            0.5, 1 - MARGIN / total[1], title, size=1.3 * HEAD, color=_INK, ha="center", va="top", parse_math=False
        )
    top = total[1] - MARGIN - (_lines(title, 2 * HEAD) if title else 0)
    for row, (head, picture, foot) in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = MARGIN + column * (width + GAP)
            box = (left / total[0], (top - head - picture) / total[1], width / total[0], picture / total[1])
            _draw(figure.add_axes(box), cell, width)
        top -= head + picture + foot + GAP
    return figure


def _height(row: Sequence[Cell], width: float) -> tuple[float, float, float]:
    """Inches of the words above, the pictures, and the words below."""
    shapes = [cell.pixels.shape for cell in row if cell.pixels is not None]
    return (
        max(_lines(_headline(cell.head, width), HEAD) for cell in row),
        max((width * shape[0] / shape[1] for shape in shapes), default=width),
        max(_lines(wrapped(cell.foot, width, FOOT), FOOT) for cell in row if cell.pixels is not None or not shapes),
    )


def _draw(axes: Axes, cell: Cell, width: float) -> None:
    if cell.pixels is None:
        axes.set_axis_off()
        words = wrapped(cell.foot, width, HEAD)
        axes.text(
            0, 1, words, transform=axes.transAxes, va="top", size=HEAD, color=_INK, linespacing=LINE, parse_math=False
        )
        return
    bare(axes).set_anchor("N")
    axes.imshow(cell.pixels)
    axes.set_title(_headline(cell.head, width), size=HEAD, color=_INK, pad=4, linespacing=1.15, parse_math=False)
    axes.set_xlabel(
        wrapped(cell.foot, width, FOOT), size=FOOT, color=_FAINT, labelpad=3, linespacing=1.15, parse_math=False
    )


def _headline(text: str, width: float) -> str:
    if len(text) > _letters(width, HEAD):
        text = text.replace("(", "\n(", 1)  # a method expression breaks best before its parameters
    return wrapped(text, width, HEAD)


def wrapped(text: str, width: float, size: float) -> str:
    """Broken into lines of `width` inches; a word longer than a line, such as a key, is broken too. Control characters are spelled out."""
    text = "".join(c if c in "\n\xa0" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, _letters(width, size)))


def _letters(width: float, size: float) -> int:
    return max(8, int(width * 72 / (LETTER * size)))


def _lines(text: str, size: float) -> float:
    """Inches that a text of so many lines takes, with a little air."""
    return (len(text.splitlines()) * LINE * size + 5) / 72 if text else 0.0
