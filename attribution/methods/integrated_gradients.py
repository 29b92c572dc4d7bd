"""Integrated Gradients: a path's mean gradient times the distance gone."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from attribution.bundle import Features
from attribution.method import Cost, Method
from attribution.quadrature import quadrature
from attribution.site import Site


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Average the gradient along the straight path from the baseline, times the distance."""

    paper = "Sundararajan et al. 2017, arXiv:1703.01365, eq. 1"
    axioms = frozenset(
        {"completeness", "sensitivity_a", "sensitivity_b", "linearity", "implementation_invariance", "symmetry"}
    )
    short: ClassVar[tuple[str, ...]] = ("ig",)
    default_baseline = "zero"
    captum: ClassVar[tuple[str, ...]] = ("IntegratedGradients", "LayerIntegratedGradients", "NeuronIntegratedGradients")
    n_steps: int = 50
    method: str = "gausslegendre"
    multiply_by_inputs: bool = True

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        path = end - start
        mean_gradient = torch.zeros(())
        for alpha, weight in quadrature(self.method, self.n_steps):
            mean_gradient = mean_gradient + weight * f.gradient(start + alpha * path)
        return path * mean_gradient if self.multiply_by_inputs else mean_gradient

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1, forward_backward=self.n_steps)
