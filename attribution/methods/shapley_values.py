"""Shapley values, exactly: every coalition of regions is asked once."""

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from attribution.bundle import Features, expanded, sent
from attribution.coalitions import composed, credited, region_counts
from attribution.method import Cost
from attribution.methods.regional import Regional
from attribution.site import Site


@dataclass(frozen=True)
class ShapleyValues(Regional):
    """The rise of the score when a region joins a coalition of others, averaged over all orders of joining."""

    paper = "Shapley 1953, A value for n-person games, eq. 13"
    axioms = frozenset(
        {"efficiency", "symmetry", "sensitivity_a", "sensitivity_b", "linearity", "implementation_invariance"}
    )
    captum = ("ShapleyValues",)
    most_regions = 10
    """1,024 passes for each image; beyond, samples are the better use of passes."""
    regions: str = "grid(3)"

    def attribute(self, site: Site, x: Features, baseline: Features, mask: Features) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        counts = region_counts(mask, len(x))
        most = int(counts.max())
        whole = site.score(x)
        values = torch.zeros((), dtype=torch.float64)
        for coalition in range(2**most):
            kept = torch.tensor([bool(coalition >> region & 1) for region in range(most)])
            if kept.all():
                score = whole
            elif kept.any():
                score = f.score(composed(kept.expand(len(x), -1), mask, end, start))
            else:
                score = f.score(expanded(start, end))
            values = values + sent(shares(kept, counts), score.device) * score.unsqueeze(1)
        return credited(values.to(whole), mask, like=end)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=2.0 ** self.parsed().count(image_shape))


def shares(kept: Tensor, counts: Tensor) -> Tensor:
    """How much of a coalition's score belongs to each region: eq. 13, gathered by coalition.

    A member has joined the others, everyone else has yet to join them. Nothing for images without all these regions.
    """
    size, rows = int(kept.sum()), []
    for count in counts.tolist():
        joined = 1 / (count * comb(count - 1, size - 1)) if 1 <= size <= count else 0.0
        joins = 1 / (count * comb(count - 1, size)) if size < count else 0.0
        rows.append((kept.double() * (joined + joins) - joins) * float(not kept[count:].any()))
    return torch.stack(rows)
