"""From attribution values to numbers in [-1, 1]: sign, scale, and size. Numpy only."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import NDArray

Array = NDArray[np.floating]
Sign = Literal["all", "positive", "negative", "absolute_value"]
SIGNS: tuple[Sign, ...] = ("all", "positive", "negative", "absolute_value")

# Captum's colours for its functions.
CAPTUM_CMAPS: dict[str, str | Colormap] = {
    "all": LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"]),
    "positive": "Greens",
    "negative": "Reds",
    "absolute_value": "Blues",
}


def signed(values: Array, sign: Sign) -> Array:
    """Keep the part of a map that the sign asks for; NaN (a failed image) counts as nothing."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    match sign:
        case "all":
            return values
        case "positive":
            return np.maximum(values, 0)
        case "negative":
            return np.maximum(-values, 0)
        case "absolute_value":
            return np.abs(values)
    raise ValueError(f"sign {sign!r} is not one of {', '.join(SIGNS)}")


def scale_of(values: Array, outlier_perc: float = 2) -> float:
    """The magnitude that is drawn in full colour: (100 - outlier_perc) % of all attribution lies at or below it. 0 for an empty map."""
    if not 0 <= outlier_perc <= 100:
        raise ValueError(f"outlier_perc is {outlier_perc}; give a percentage from 0 to 100")
    magnitude = np.sort(np.abs(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)), axis=None)
    if magnitude.size == 0:
        return 0.0
    mass = np.cumsum(magnitude, dtype=np.float64)
    rank = np.searchsorted(mass, mass[-1] * (1 - outlier_perc / 100))
    return float(magnitude[min(rank, magnitude.size - 1)])


def is_one_sided(values: Array) -> bool:
    """Drawn dark to bright; a map with negative parts, or with nothing at all, is drawn on white instead."""
    return bool(np.nanmin(values, initial=0) >= 0 and np.nanmax(values, initial=0) > 0)


def full_colour(values: Array) -> float:
    """The scale that panels, contact sheets and reports draw a map on, unless another is given.

    A signed map is fine dots of both colours, the strongest of them few: at the usual 2 % the rest would hardly show.
    """
    return scale_of(values, 2 if is_one_sided(values) else 10)


def shared_scale(maps: Iterable[Array], sign: Sign = "all", outlier_perc: float = 2) -> float:
    """One scale for several (H, W) maps, so that equal colours mean equal attribution."""
    return max((scale_of(signed(values, sign), outlier_perc) for values in maps), default=0.0)


def normalise(values: Array, sign: Sign = "all", outlier_perc: float = 2, scale: float | None = None) -> Array:
    """Divide by the scale (the map's own unless given) and clip to [-1, 1]. A map without attribution stays zero."""
    kept = signed(values, sign)
    divisor = scale_of(kept, outlier_perc) if scale is None else scale
    if divisor < 0:
        raise ValueError(f"scale is {divisor}; give a positive magnitude")
    return np.clip(kept / divisor, -1, 1) if divisor > 0 else np.zeros_like(kept)


def enlarge(values: Array, size: tuple[int, int]) -> Array:
    """Bring an (H, W) map to another size with smooth (cubic) interpolation and no overshoot: how a 7x7 CAM covers its image."""
    rows, columns = (_resampling(old, new) for old, new in zip(values.shape, size, strict=True))
    filled = np.nan_to_num(np.asarray(values, dtype=np.float64))
    return np.clip(rows @ filled @ columns.T, filled.min(), filled.max())


@lru_cache(64)
def _resampling(old: int, new: int) -> Array:
    """The (new, old) matrix of cubic convolution (Keys 1981, a = -1/2) between pixel centres; widened where it shrinks."""
    stretch = max(1.0, old / new)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    distance = np.abs(centres[:, None] - np.arange(-2 * old, 3 * old)[None, :]) / stretch
    near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weight[:, 2 * old] += weight[:, : 2 * old].sum(axis=1)  # beyond the border lies the border's value
    weight[:, 3 * old - 1] += weight[:, 3 * old :].sum(axis=1)
    weight = weight[:, 2 * old : 3 * old]
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def plane(values: Array) -> Array:
    """(C, H, W) or (H, W) -> (H, W): what a picture shows is the sum over channels."""
    values = np.asarray(values)
    if values.ndim not in {2, 3}:
        raise ValueError(f"a map of shape {values.shape} has no picture; give (C, H, W) or (H, W)")
    return values if values.ndim == 2 else values.sum(axis=0)


def colours(values: Array, *, one_sided: bool) -> NDArray[np.uint8]:
    """(H, W) in [-1, 1] -> (H, W, 4) RGBA bytes, opaque: blue-white-red for signed maps, dark to bright for one-sided ones."""
    if one_sided:
        return np.asarray(colormaps["magma"](np.clip(values, 0, 1), bytes=True))
    return np.asarray(colormaps["RdBu_r"]((np.asarray(values) + 1) / 2, bytes=True))
