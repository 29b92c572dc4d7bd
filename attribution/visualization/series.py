"""Captum's pictures of time series: attribution as coloured spans under the curve, or as the colour of the curve."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attribution.visualization.canvas import new_figure, show_pyplot
from attribution.visualization.scale import CAPTUM_CMAPS, Array, Sign, normalise

STYLES = ("overlay_individual", "overlay_combined", "colored_graph")


def visualize_timeseries_attr(
    attr: Array,
    data: NDArray[Any],
    x_values: NDArray[Any] | None = None,
    method: str = "overlay_individual",
    sign: str = "absolute_value",
    channel_labels: list[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: tuple[Figure, Axes | NDArray[Any]] | None = None,
    outlier_perc: float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[float, float] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Figure, Axes | NDArray[Any]]:
    """Draw the attribution of a series, both (time, channel), or (channel, time) with `channels_last=False`."""
    attr, data = (np.asarray(each) if channels_last else np.asarray(each).T for each in (attr, data))
    if method not in STYLES:
        raise ValueError(f"method {method!r} is not one of {', '.join(STYLES)}")
    if attr.shape != data.shape or attr.ndim != 2:
        raise ValueError(f"attr {attr.shape} and data {data.shape} must have one (time, channel) shape")
    x = np.arange(len(data)) if x_values is None else np.asarray(x_values)
    labels = channel_labels or [f"channel {c}" for c in range(data.shape[1])]
    if len(x) != len(data) or len(labels) != data.shape[1]:
        raise ValueError(
            f"{len(data)} times and {data.shape[1]} channels, but {len(x)} x_values and {len(labels)} channel_labels"
        )
    kind: Sign = sign  # type: ignore[assignment]  # a string of Captum's API; `normalise` refuses what it does not know
    combined = method == "overlay_combined"
    shown = normalise(attr.sum(axis=1, keepdims=True) if combined else attr, kind, outlier_perc)
    paint = ScalarMappable(Normalize(-1 if sign == "all" else 0, 1), cmap or CAPTUM_CMAPS[sign])

    figure, row = plt_fig_axis or _axes(fig_size, 1 if combined else data.shape[1], use_pyplot=use_pyplot)
    panels = list(np.atleast_1d(np.asarray(row, dtype=object)))
    for channel, label in enumerate(labels):
        axes = panels[0] if combined else panels[channel]
        if method == "colored_graph":
            _coloured_line(axes, x, data[:, channel], paint.to_rgba(shown[:, channel]))
        else:
            axes.plot(
                x,
                data[:, channel],
                label=label,
                **({"color": "black"} | pyplot_kwargs if not combined else pyplot_kwargs),
            )
            if channel == 0 or not combined:
                _spans(axes, x, paint.to_rgba(shown[:, channel], alpha=alpha_overlay))
        if not combined:
            axes.set_ylabel(label)
    if combined:
        panels[0].legend(loc="best")
    if show_colorbar:
        figure.colorbar(paint, ax=panels, orientation="horizontal")
    if title:
        panels[0].set_title(title)
    if use_pyplot:
        show_pyplot()
    return figure, row


def _axes(size: tuple[float, float], count: int, *, use_pyplot: bool) -> tuple[Figure, Any]:
    figure = new_figure(size, use_pyplot=use_pyplot, layout="constrained")
    return figure, figure.subplots(count, 1, sharex=True)


def _edges(x: NDArray[Any]) -> NDArray[Any]:
    """Borders of the spans: half way between neighbours."""
    if len(x) == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    middle = (x[:-1] + x[1:]) / 2
    return np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]])


def _spans(axes: Axes, x: NDArray[Any], rgba: NDArray[Any]) -> None:
    edges = _edges(x)
    for left, right, colour in zip(edges[:-1], edges[1:], rgba, strict=True):
        axes.axvspan(left, right, facecolor=colour, edgecolor="none", zorder=0)


def _coloured_line(axes: Axes, x: NDArray[Any], y: NDArray[Any], rgba: NDArray[Any]) -> None:
    points = np.column_stack([x, y])
    axes.add_collection(
        LineCollection(list(np.stack([points[:-1], points[1:]], axis=1)), colors=rgba[:-1], linewidths=2)
    )
    axes.autoscale_view()
