"""Small pictures for the report: one JPEG strip an image, holding its photograph and the overlay of each method at both scales."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attribution.visualization import colours, enlarge, full_colour, normalise, overlay
from jobs.views import MISSING, Planes

QUALITY = 82  # below, JPEG blurs the signed dots of gradient maps
LARGE, SMALL = 176, 112  # sides of a strip's cells
CHROMA_WHOLE = 0  # no chroma subsampling: red and blue dots lie side by side


def strip(photograph: NDArray[np.uint8], planes: Sequence[Planes], shared: Sequence[float], side: int) -> bytes:
    """Photograph, then each map on its own scale, then each on the shared one: square cells of `side` pixels."""
    height, width = fitted(photograph.shape[:2], side)
    small = np.asarray(
        Image.fromarray(photograph).resize(
            (width, height), Image.Resampling.BOX if width < photograph.shape[1] else Image.Resampling.BICUBIC
        )
    )
    maps = [enlarge(plane, (height, width)) for plane in planes]
    own = [overlay(small, each, full_colour(each)) for each in maps]
    common = [overlay(small, each, full) for each, full in zip(maps, shared, strict=True)]
    return jpeg([small, *own, *common], side)


def class_strip(means: Sequence[Planes | None], side: int) -> bytes:
    """The mean maps of one class, one cell a method; an empty cell where it has none."""
    cells = [
        np.full((side, side, 3), MISSING, np.uint8)
        if mean is None
        else colours(normalise(enlarge(mean, (side, side)), "positive", 0.5), one_sided=True)[:, :, :3]
        for mean in means
    ]
    return jpeg(cells, side)


def jpeg(cells: Sequence[NDArray[np.uint8]], side: int) -> bytes:
    """Cells side by side, each centred in a square."""
    sheet = Image.new("RGB", (side * len(cells), side), (MISSING,) * 3)
    for position, each in enumerate(cells):
        height, width = each.shape[:2]
        sheet.paste(Image.fromarray(each), (position * side + (side - width) // 2, (side - height) // 2))
    target = io.BytesIO()
    sheet.save(target, "JPEG", quality=QUALITY, subsampling=CHROMA_WHOLE)
    return target.getvalue()


def fitted(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Height and width within a square of `side`, in proportion."""
    height, width = size
    longer = max(height, width)
    return max(1, round(height * side / longer)), max(1, round(width * side / longer))
