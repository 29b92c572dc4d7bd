"""Colour scales shared by all images of a run, so that equal colours mean equal attribution."""

import numpy as np

from attribution.visualization import enlarge, full_colour
from jobs.thumbnails import fitted
from jobs.views import View

SAMPLE = 64  # images at least, where there are so many, that decide the scale


def shared_scales(view: View, side: int | None = None) -> dict[str, float]:
    """For each group the magnitude that most of its images stay below, at the size at which they are drawn.

    From a sample and a high quantile, so that an outlier does not fade the rest.
    """
    done = sorted(row for unit in view.run.committed() for row in view.run.unit_rows(unit))
    rows = done[:: max(1, len(done) // SAMPLE)]
    scales = {}
    for spec in view.pictured:
        planes = view.planes(spec.group, rows)
        drawn = [enlarge(plane, fitted(plane.shape, side)) if side else plane for plane in planes]
        scales[spec.group] = _upper([full_colour(plane) for plane in drawn])
    return scales


def _upper(scales: list[float]) -> float:
    positive = [scale for scale in scales if scale > 0]
    return float(np.quantile(positive, 0.9)) if positive else 0.0
