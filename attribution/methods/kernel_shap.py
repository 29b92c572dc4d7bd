"""Kernel SHAP: Shapley values as the solution of a weighted regression."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.bundle import Features, expanded
from attribution.coalitions import composed, credited, region_counts
from attribution.method import Cost
from attribution.methods.regional import Regional
from attribution.noise import Draws
from attribution.site import Site
from attribution.surrogates import Surrogate

CERTAIN = 1e6
"""The weight of the full and the empty coalition, infinite in the paper; a million holds the sum to about 1e-5."""


@dataclass(frozen=True)
class KernelShap(Regional):
    """The coefficients of a linear model of the score, with coalitions drawn so that they tend to the Shapley values."""

    paper = "Lundberg and Lee 2017, arXiv:1705.07874, theorem 2"
    axioms = frozenset({"efficiency", "linearity", "implementation_invariance"})
    short = ("kernelshap",)
    captum = ("KernelShap",)
    most_regions = 2000
    """The normal equations of one image then take 32 MB."""
    n_samples: int = 25

    def attribute(self, site: Site, x: Features, baseline: Features, mask: Features, draws: Draws) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        counts = region_counts(mask, len(x))
        everything = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        surrogate = Surrogate(counts)
        surrogate.add(everything, site.score(x), CERTAIN)
        surrogate.add(torch.zeros_like(everything), f.score(expanded(start, end)), CERTAIN)
        for sample in range(self.n_samples - 2):
            sizes = coalition_sizes(counts, draws.uniform(sample, like=torch.zeros((), dtype=torch.float64)))
            rank = draws.table(counts, sample).argsort(1).argsort(1)
            kept = rank < sizes.unsqueeze(1)
            surrogate.add(kept, f.score(composed(kept, mask, end, start)), 1.0)
        return credited(surrogate.least_squares(), mask, like=end)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=self.n_samples)


def coalition_sizes(counts: Tensor, chance: Tensor) -> Tensor:
    """A size k between 1 and M - 1 for each image, with probability in proportion to (M - 1) / (k (M - k)).  -> (N,)"""
    sizes = torch.arange(int(counts.max()) + 1, dtype=torch.float64)
    product = sizes * (counts.unsqueeze(1) - sizes)
    weight = torch.where(product > 0, 1 / product, 0.0)
    cumulative = weight.cumsum(1) / weight.sum(1, keepdim=True).clamp(min=1e-300)
    return (cumulative <= chance.unsqueeze(1)).sum(1).clamp(max=counts)
