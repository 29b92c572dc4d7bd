"""What one or two attribution maps have to say in one number an image: agreement, and where in the picture the attribution lies.

All take planes, (N, H, W) maps summed over channels, and answer NaN where a map holds no attribution at all.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

TOP_SHARE = 0.1  # of the pixels: what a viewer takes for "the bright part"
BORDER, CORNER, CENTRE = (
    0.1,
    0.2,
    0.25,
)  # depth of the frame, side of a corner, margin around the centre; shares of the side


def spearman(first: Array, second: Array) -> Array:
    """Rank correlation of the pixels: 1 where both maps order the pixels alike. Equal values share their mean rank."""
    a, b = (_ranks(_flat(each)) for each in (first, second))
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return _known(np.clip(correlation, -1, 1), first, second)


def top_overlap(first: Array, second: Array) -> Array:
    """Share of the strongest tenth of the pixels, by magnitude, that both maps have in common."""
    a, b = (np.abs(_flat(each)) for each in (first, second))
    count = max(1, round(a.shape[1] * TOP_SHARE))
    chosen = np.zeros((2, *a.shape), dtype=bool)
    for mask, values in zip(chosen, (a, b), strict=True):
        np.put_along_axis(mask, np.argpartition(np.nan_to_num(values), -count, axis=1)[:, -count:], values=True, axis=1)
    return _known((chosen[0] & chosen[1]).sum(axis=1) / count, first, second)


def ssim(first: Array, second: Array, window: int = 7) -> Array:
    """Structural similarity (Wang et al. 2004) of the maps, each divided by its largest magnitude, over uniform windows."""
    a, b = (_unit_peak(each) for each in (first, second))
    side = min(window, *a.shape[1:])
    side -= 1 - side % 2  # windows have a middle
    mean_a, mean_b = _window_mean(a, side), _window_mean(b, side)
    unbiased = side**2 / max(1, side**2 - 1)
    var_a = unbiased * (_window_mean(a * a, side) - mean_a**2)
    var_b = unbiased * (_window_mean(b * b, side) - mean_b**2)
    cov = unbiased * (_window_mean(a * b, side) - mean_a * mean_b)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the paper's K1, K2; values span [-1, 1]
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return _known(similarity.mean(axis=(1, 2)), first, second)


def l2(first: Array, second: Array) -> Array:
    """Distance of the maps as they are, in units of attribution: for two runs of one method."""
    return _known(np.linalg.norm(_flat(first) - _flat(second), axis=1), first, second, empty_counts=True)


def l2_unit(first: Array, second: Array) -> Array:
    """Distance of the maps scaled to length 1, between 0 and 2: for methods of different units."""
    a, b = (_flat(each) for each in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    return _known(np.linalg.norm(a - b, axis=1), first, second)


AGREEMENT: dict[str, Callable[[Array, Array], Array]] = {
    "spearman": spearman,
    "top_overlap": top_overlap,
    "ssim": ssim,
    "l2": l2,
    "l2_unit": l2_unit,
}


def places(height: int, width: int) -> dict[str, Array]:
    """How much of each pixel lies in the border, the corners and the centre, (H, W) from 0 to 1.

    Parts of pixels count: a 7 x 7 CAM has the same areas as a photograph, so that their shares can be compared. A share far
    above the area hints at a watermark or a tag.
    """
    within = {depth: [_within(size, depth) for size in (height, width)] for depth in (BORDER, CORNER, CENTRE)}
    return {
        "border": 1 - np.outer(*within[BORDER]),
        "corner": np.outer(*(1 - each for each in within[CORNER])),
        "centre": np.outer(*within[CENTRE]),
    }


def place_shares(planes: Array) -> dict[str, Array]:
    """Share of each map's absolute attribution that lies in the border, the corners and the centre."""
    magnitude = np.abs(planes)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = magnitude / magnitude.sum(axis=(1, 2), keepdims=True)
    weights = places(*planes.shape[1:])
    return {f"{name}_share": np.tensordot(magnitude, weight, axes=2) for name, weight in weights.items()}


def _within(size: int, depth: float) -> Array:
    """(size,) the part of each pixel that is at least `depth` of the side away from both ends."""
    edges = np.linspace(0, 1, size + 1)
    inside = np.minimum(edges[1:], 1 - depth) - np.maximum(edges[:-1], depth)
    return np.asarray(np.maximum(inside, 0) * size)


def _flat(planes: Array) -> Array:
    return np.asarray(planes, dtype=np.float64).reshape(len(planes), -1)


def _known(values: Array, first: Array, second: Array, *, empty_counts: bool = False) -> Array:
    """NaN where either map is missing (NaN) or, unless an empty map counts, holds nothing."""
    for planes in (first, second):
        total = np.abs(_flat(planes)).sum(axis=1)
        values = np.where(np.isfinite(total) & ((total > 0) | empty_counts), values, np.nan)
    return values


def _ranks(rows: Array) -> Array:
    ranks = np.empty_like(rows)
    for row, into in zip(rows, ranks, strict=True):
        order = np.argsort(row, kind="stable")
        ordered = row[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        counts = np.diff(np.r_[starts, len(row)])
        into[order] = np.repeat(starts + (counts - 1) / 2, counts)
    return ranks


def _unit_peak(planes: Array) -> Array:
    peak = np.abs(planes).max(axis=(1, 2), keepdims=True, initial=0)
    return np.asarray(planes / np.where(peak > 0, peak, 1))


def _window_mean(planes: Array, side: int) -> Array:
    """Mean over every side x side window that lies inside the map, through running sums."""
    total = np.zeros((len(planes), planes.shape[1] + 1, planes.shape[2] + 1))
    np.cumsum(np.cumsum(planes, axis=1), axis=2, out=total[:, 1:, 1:])
    corners = total[:, side:, side:] - total[:, :-side, side:] - total[:, side:, :-side] + total[:, :-side, :-side]
    return np.asarray(corners / side**2)
