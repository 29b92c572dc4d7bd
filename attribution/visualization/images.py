"""Captum's picture functions: the same names and options, plus fixed scale, contours, and maps smaller than their image."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mpl_toolkits.axes_grid1 import make_axes_locatable
from numpy.typing import NDArray

from attribution.visualization.canvas import bare, image_bytes, new_figure, show_pyplot
from attribution.visualization.scale import CAPTUM_CMAPS, Array, Sign, enlarge, normalise

Style = Literal["heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling"]
STYLES: tuple[Style, ...] = ("heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling")


def visualize_image_attr(
    attr: Array | None,
    original_image: NDArray[Any] | None = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    outlier_perc: float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[float, float] = (6, 6),
    use_pyplot: bool = True,
    *,
    scale: float | None = None,
    contours: int | Sequence[float] | None = None,
) -> tuple[Figure, Axes]:
    """Draw one attribution map (H, W, C) or (H, W) in one of Captum's five styles.

    Beyond Captum: `scale` fixes the magnitude of full colour (see `shared_scale`), `contours` draws level lines,
    a map smaller than its image is enlarged smoothly, and a map without attribution is drawn empty instead of raising.
    """
    _check(attr, original_image, method, sign)
    figure, axes = plt_fig_axis or _single_axes(fig_size, use_pyplot=use_pyplot)
    bare(axes)
    image = None if original_image is None else image_bytes(original_image)
    if attr is None or method == "original_image":
        drawn = axes.imshow(image_bytes(np.asarray(original_image)))
    else:
        shown = _shown(attr, image, sign, outlier_perc, scale)
        drawn = _draw(axes, shown, image, method, sign, cmap or CAPTUM_CMAPS[sign], alpha_overlay)
        if contours is not None and np.ptp(shown) > 0:
            axes.contour(shown, contours, colors="black", linewidths=0.8, alpha=0.7)
    if title:
        axes.set_title(title)
    if show_colorbar and method in {"heat_map", "blended_heat_map"}:
        colour_axes = make_axes_locatable(axes).append_axes("bottom", size="5%", pad=0.1)
        figure.colorbar(drawn, orientation="horizontal", cax=colour_axes)
    if use_pyplot:
        show_pyplot()
    return figure, axes


def visualize_image_attr_multiple(
    attr: Array | None,
    original_image: NDArray[Any] | None,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[float, float] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Figure, NDArray[Any]]:
    """Draw one attribution map in several styles side by side; further options are those of `visualize_image_attr`."""
    if not methods:
        raise ValueError(f"methods is empty; give some of {', '.join(STYLES)}")
    if len(signs) != len(methods) or (titles is not None and len(titles) != len(methods)):
        raise ValueError(
            f"{len(methods)} methods need as many signs and titles; got {len(signs)} signs and {len(titles or [])} titles"
        )
    figure = new_figure(fig_size, use_pyplot=use_pyplot)
    row = figure.subplots(1, len(methods), squeeze=False)[0]
    for axes, method, sign, title in zip(row, methods, signs, titles or [""] * len(methods), strict=True):
        visualize_image_attr(
            attr, original_image, method, sign, (figure, axes), title=title, use_pyplot=False, **kwargs
        )
    figure.tight_layout()
    if use_pyplot:
        show_pyplot()
    return figure, row


def _single_axes(size: tuple[float, float], *, use_pyplot: bool) -> tuple[Figure, Axes]:
    figure = new_figure(size, use_pyplot=use_pyplot)
    return figure, figure.subplots()


def _check(attr: Array | None, image: NDArray[Any] | None, method: str, sign: str) -> None:
    if method not in STYLES:
        raise ValueError(f"method {method!r} is not one of {', '.join(STYLES)}")
    if method != "heat_map" and image is None:
        raise ValueError(f"method {method!r} needs original_image; only heat_map goes without")
    if method != "original_image" and attr is None:
        raise ValueError(f"method {method!r} needs attr; only original_image goes without")
    if method in {"masked_image", "alpha_scaling"} and sign == "all":
        raise ValueError(f"method {method!r} cannot show sign 'all'; choose positive, negative or absolute_value")


def _shown(attr: Array, image: NDArray[np.uint8] | None, sign: str, outlier_perc: float, scale: float | None) -> Array:
    """The map as (H, W) of the image, in [-1, 1]."""
    values = np.asarray(attr)
    values = values.sum(axis=2) if values.ndim == 3 else values
    if image is not None and values.shape != image.shape[:2]:
        values = enlarge(values, image.shape[:2])
    kind: Sign = sign  # type: ignore[assignment]  # a string of Captum's API; `normalise` refuses what it does not know
    return normalise(values, kind, outlier_perc, scale)


def _draw(
    axes: Axes,
    shown: Array,
    image: NDArray[np.uint8] | None,
    method: str,
    sign: str,
    cmap: str | Colormap,
    alpha: float,
) -> AxesImage:
    if image is not None and method == "masked_image":
        return axes.imshow((image * shown[:, :, None]).astype(np.uint8))
    if image is not None and method == "alpha_scaling":
        return axes.imshow(np.dstack([image, (shown * 255).astype(np.uint8)]))
    low = -1 if sign == "all" else 0
    if image is not None and method == "blended_heat_map":
        axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
        return axes.imshow(shown, cmap=cmap, vmin=low, vmax=1, alpha=alpha)
    return axes.imshow(shown, cmap=cmap, vmin=low, vmax=1)
