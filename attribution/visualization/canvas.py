"""Figures without pyplot's global state, unless the caller asks for pyplot."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray


def new_figure(size: tuple[float, float], *, use_pyplot: bool = False, **options: Any) -> Figure:
    """A figure that can be saved; with pyplot it is also one that `plt.show` knows."""
    if use_pyplot:
        import matplotlib.pyplot as plt

        figure: Figure = plt.figure(figsize=size, **options)
        return figure
    figure = Figure(figsize=size, **options)
    FigureCanvasAgg(figure)
    return figure


def show_pyplot() -> None:
    import matplotlib.pyplot as plt

    plt.show()


def bare(axes: Axes) -> Axes:
    """Axes without ticks, labels or frame: a picture, not a plot."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)
    return axes


def image_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Any (H, W), (H, W, 1) or (H, W, 3) image as bytes (H, W, 3).

    Floats up to 1 are taken as fractions, floats of which some are negative (a normalised image) are stretched from the
    lowest to the highest, everything else is 0 to 255, clipped.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in {1, 3, 4}:
        raise ValueError(f"an image of shape {image.shape} has no picture; give (H, W, 3) or (H, W)")
    if np.issubdtype(image.dtype, np.floating):
        low, high = np.nanmin(image, initial=0), np.nanmax(image, initial=0)
        if low < 0:
            image = (image - low) / (high - low) * 255
        elif high <= 1:
            image = image * 255
    pixels = np.clip(np.nan_to_num(image[:, :, :3]), 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels
