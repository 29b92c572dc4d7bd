"""Integrated Gradients: a path's mean gradient times the distance gone."""

from dataclasses import dataclass

import torch

from attribution.bundle import Features
from attribution.method import Cost, Method
from attribution.quadrature import quadrature
from attribution.site import Site


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Average the gradient along the straight path from the baseline, times the distance."""

    paper = "Sundararajan et al. 2017, arXiv:1703.01365, eq. 1"
    axioms = frozenset({"completeness", "sensitivity_a", "sensitivity_b", "linearity", "implementation_invariance"})
    short = ("ig",)
    default_baseline = "zero"
    captum = ("IntegratedGradients", "LayerIntegratedGradients", "NeuronIntegratedGradients")
    n_steps: int = 50
    method: str = "gausslegendre"

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        return (end - start) * self.mean_gradient(f, start, end)

    def mean_gradient(self, f: Site, start: Features, end: Features) -> Features:
        """The integral alone: how strongly the score reacts to each feature along the path."""
        path = end - start
        rule = quadrature(self.method, self.n_steps)
        return sum((weight * f.gradient(start + alpha * path) for alpha, weight in rule), start=torch.zeros(()))

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1, forward_backward=self.n_steps)
