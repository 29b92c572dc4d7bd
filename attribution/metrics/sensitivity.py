"""Sensitivity: how much a map changes when the image hardly does."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.bundle import Features, row_sum
from attribution.errors import ExpressionError
from attribution.metrics.metric import Case, Metric


@dataclass(frozen=True)
class SensitivityMax(Metric):
    """The largest change of the map, relative to its length, when every number moves at random by at most `radius`."""

    paper = "Yeh et al. 2019, arXiv:1901.09392, def. 3.1"
    radius: float = 0.02
    """In normalised units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius <= 0:
            raise ExpressionError(f"sensitivity_max(radius={self.radius}): a positive number is needed")

    def measure(self, case: Case) -> Tensor:
        """Of any map."""
        x = case.images.pixels

        def perturb(draw: int) -> Features:
            return x + self.radius * case.draws.box(x, draw)

        return sensitivity_max(case.again, case.attribution, perturb, n_samples=self.n_samples)


def sensitivity_max(
    explanation: Callable[[Features], Features],
    attribution: Features,
    perturb: Callable[[int], Features],
    *,
    n_samples: int = 10,
) -> Tensor:
    """The largest |E(perturbed) - E(x)| / |E(x)| among the draws, where `attribution` is E(x).  -> (N,)

    A map of nothing has no length to compare with: its changes count as they are.
    """
    length = row_sum(attribution**2).sqrt()
    changes = [row_sum((explanation(perturb(draw)) - attribution) ** 2).sqrt() for draw in range(n_samples)]
    return torch.stack(changes).amax(0) / torch.where(length > 0, length, 1.0)
