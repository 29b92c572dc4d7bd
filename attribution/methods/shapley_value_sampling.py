"""Shapley value sampling: a region's mean contribution over random orders of joining."""

from dataclasses import dataclass

import torch

from attribution.bundle import Features, expanded, sent
from attribution.coalitions import composed, credited, region_counts
from attribution.method import Cost
from attribution.methods.regional import Regional
from attribution.noise import Draws
from attribution.site import Site


@dataclass(frozen=True)
class ShapleyValueSampling(Regional):
    """The rise of the score when a region joins those before it in a random order, averaged over orders."""

    paper = "Castro et al. 2009, Polynomial calculation of the Shapley value based on sampling, sec. 3"
    axioms = frozenset({"efficiency", "sensitivity_a", "sensitivity_b", "linearity", "implementation_invariance"})
    short = ("svs", "shapley_sampling")
    captum = ("ShapleyValueSampling",)
    n_samples: int = 25

    def attribute(self, site: Site, x: Features, baseline: Features, mask: Features, draws: Draws) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        counts = region_counts(mask, len(x))
        whole, nothing = site.score(x), f.score(expanded(start, end))
        values = torch.zeros(len(x), int(counts.max()), dtype=whole.dtype, device=whole.device)
        for sample in range(self.n_samples):
            rank = draws.table(counts, sample).argsort(1).argsort(1)  # of each region in the order
            before = nothing
            for joining in range(int(counts.max())):
                complete = counts <= joining + 1
                after = whole
                if not bool(complete.all()):
                    joined = f.score(composed(rank <= joining, mask, end, start))
                    after = torch.where(sent(complete, joined.device), whole, joined)
                values += sent(rank == joining, after.device) * (after - before).unsqueeze(1)
                before = after
        return credited(values / self.n_samples, mask, like=end)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=2 + self.n_samples * (self.parsed().count(image_shape) - 1))
