"""Occlusion: what the score loses when a window of the image is covered."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, cut, parts_of, per_row
from attribution.method import Cost, Method
from attribution.nearby import Variant
from attribution.passes import Rows
from attribution.regions import Window, box_of, sliding_windows
from attribution.site import Site

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Occlusion(Method):
    """The fall of the score when a sliding window is replaced by the baseline, averaged over the windows on each feature."""

    paper = "Zeiler and Fergus 2014, arXiv:1311.2901, sec. 4.2"
    axioms = frozenset({"sensitivity_b", "implementation_invariance", "linearity"})
    places = frozenset({"input", "neuron"})
    default_baseline = "zero"
    captum = ("Occlusion",)
    window: int | Sizes = 32
    stride: int | Sizes = 16
    """Sizes over (height, width), all channels covered; or over (channel, height, width)."""

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        whole = site.score(x)
        totals = []
        for number, part in enumerate(parts_of(x)):
            windows = list(sliding_windows(tuple(part.shape[1:]), self.window, self.stride))
            scores = site.scores(x, [_covered(window, number, x, baseline) for window in windows])
            total, falls = whole.new_zeros(part.shape), whole.unsqueeze(1) - scores  # (N, windows)
            for window, fall in zip(windows, falls.unbind(1), strict=True):
                total[window].add_(per_row(fall, part))
            totals.append(total / _hits(tuple(part.shape[1:]), self.window, self.stride, whole.dtype, whole.device))
        return bundled(totals)

    def shares(self, attribution: Features, *args: Any, **needs: Any) -> Features:
        """Each feature has the mean credit of whole windows; its share is that over a window's size."""
        window = next(sliding_windows(tuple(attribution.shape[1:]), self.window, self.stride))
        return attribution / attribution[:1][window].numel()

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1 + len(list(sliding_windows(image_shape, self.window, self.stride))))


@lru_cache(maxsize=16)
def _hits(shape: Sizes, window: int | Sizes, stride: int | Sizes, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How many windows lie on each feature; counted on the host, and sent to a device once.  -> (1, *features)"""
    hits = torch.zeros(1, *shape, dtype=dtype)
    for box in sliding_windows(shape, window, stride):
        hits[box] += 1
    return hits.to(device)


def _covered(window: Window, number: int, x: Features, baseline: Features) -> Variant:
    """X with the baseline in a window of one of its parts."""

    def of(rows: Rows) -> Features:
        parts = [part.clone() if own == number else part for own, part in enumerate(parts_of(x[rows]))]
        parts[number][window] = parts_of(cut(baseline, rows))[number].expand_as(parts[number])[window]
        return bundled(parts)

    return Variant(of, box_of(window))
