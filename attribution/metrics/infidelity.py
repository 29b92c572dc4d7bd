"""Infidelity: how badly a map foretells what the score does when parts of the image go."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.bundle import Features, parts_of, row_sum, sent
from attribution.coalitions import composed, credited, region_counts
from attribution.errors import ExpressionError
from attribution.metrics.metric import Case, Metric
from attribution.regions import parse_regions


@dataclass(frozen=True)
class Infidelity(Metric):
    """The mean squared difference between the fall that the map foretells and the score's own, when random cells go.

    A cell goes with probability `removed` and is replaced by the baseline. The map foretells the distance gone times its
    slopes or, where it holds shares of the score, the sum of the shares that went. At a layer, cells of the layer go.
    """

    paper = "Yeh et al. 2019, arXiv:1901.09392, def. 2.1"
    removed: float = 0.1
    regions: str = "grid(7)"

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_regions(self.regions)
        if not 0 < self.removed < 1:
            raise ExpressionError(f"infidelity(removed={self.removed}): a probability between 0 and 1 is needed")

    def measure(self, case: Case) -> Tensor | None:
        """Of maps that have the features' shape; a GradCAM of one channel foretells nothing about many."""
        x = case.images.pixels
        f, start, end = case.site.tail(x), case.site.features(case.reference), case.site.features(x)
        if [part.shape for part in parts_of(end)] != [part.shape for part in parts_of(case.attribution)]:
            return None
        mask = parse_regions(self.regions).mask(tuple(end.shape[1:]), case.images)
        counts = region_counts(mask, len(x))

        def perturb(draw: int) -> tuple[Features, Features]:
            kept = case.draws.table(counts, draw) >= self.removed
            near = composed(kept, mask, end, start)
            return end - near if case.shares is None else credited(
                sent(~kept, end.device).to(end), mask, like=end
            ), near

        foretelling = case.attribution if case.shares is None else case.shares
        return infidelity(f.score, case.site.score(x), foretelling, perturb, n_samples=self.n_samples)


def infidelity(
    score: Callable[[Features], Tensor],
    whole: Tensor,
    attribution: Features,
    perturb: Callable[[int], tuple[Features, Features]],
    *,
    n_samples: int = 10,
) -> Tensor:
    """The mean over draws of (sum(I * attribution) - (f(x) - f(x - I)))^2, `whole` being f(x); `perturb(draw)` gives I and x - I.

    -> (N,)
    """
    total = torch.zeros_like(whole)
    for draw in range(n_samples):
        change, near = perturb(draw)
        total += (row_sum(change * attribution).to(whole) - (whole - score(near))) ** 2
    return total / n_samples
