"""LIME: a sparse linear model of the score over which regions are there, fitted near the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.bundle import Features, expanded, sent
from attribution.coalitions import composed, credited, region_counts, region_dots
from attribution.errors import AttributionError, nearest
from attribution.method import Cost
from attribution.methods.regional import Regional
from attribution.noise import Draws
from attribution.site import Site
from attribution.surrogates import Surrogate


@dataclass(frozen=True)
class Lime(Regional):
    """The coefficients of a linear model with few regions that imitates the score where random halves are replaced."""

    paper = "Ribeiro et al. 2016, arXiv:1602.04938, eq. 2 and alg. 1"
    axioms = frozenset({"implementation_invariance"})
    captum = ("Lime",)
    most_regions = 2000
    """The normal equations of one image then take 32 MB."""
    n_samples: int = 25
    alpha: float = 0.01
    """The price of a coefficient; scores between 0 and 1 need a smaller one, 0 asks for plain least squares."""
    kernel_width: float = 1.0
    distance: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in DISTANCES:
            raise AttributionError(f"distance {self.distance!r} not found; {nearest(self.distance, DISTANCES)}")

    def attribute(self, site: Site, x: Features, baseline: Features, mask: Features, draws: Draws) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        start = expanded(start, end)
        counts = region_counts(mask, len(x))
        # Of each region, so that a sample's distance from the image takes no pass over both.
        squares, mixed, others = (
            region_dots(*pair, mask, counts) for pair in ((end, end), (end, start), (start, start))
        )
        square, surrogate = squares.sum(1), Surrogate(counts)
        for sample in range(self.n_samples):
            kept = draws.table(counts, sample) < 0.5
            is_kept = sent(kept, squares.device)
            products = (torch.where(is_kept, squares, gone).sum(1) for gone in (mixed, others))
            score = f.score(composed(kept, mask, end, start))
            surrogate.add(kept, score, self.similarity(square, *products))
        coefficients = surrogate.lasso(self.alpha) if self.alpha else surrogate.least_squares()
        return credited(coefficients, mask, like=end)

    def similarity(self, xx: Tensor, xn: Tensor, nn: Tensor) -> Tensor:
        """How much a sample n of an image x counts, from their dot products <x, x>, <x, n> and <n, n>.  -> (N,)"""
        return (-(DISTANCES[self.distance](xx, xn, nn) ** 2) / (2 * self.kernel_width**2)).exp()

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=self.n_samples)


def cosine(xx: Tensor, xn: Tensor, nn: Tensor) -> Tensor:
    """1 - the cosine of the angle between both.  -> (N,)"""
    return 1 - xn / (xx * nn).sqrt().clamp(min=1e-12)


def euclidean(xx: Tensor, xn: Tensor, nn: Tensor) -> Tensor:
    """The length of the difference.  -> (N,)"""
    return (xx - 2 * xn + nn).clamp(min=0).sqrt()


DISTANCES = {"cosine": cosine, "euclidean": euclidean}
