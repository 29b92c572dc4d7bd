"""Integrated Gradients: a path's mean gradient times the distance gone."""

from dataclasses import dataclass
from typing import ClassVar

from attribution.adaptive import settled_mean
from attribution.bundle import Features
from attribution.errors import AttributionError
from attribution.method import Attributed, Cost, Method
from attribution.quadrature import quadrature
from attribution.site import Site


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Average the gradient along the straight path from the baseline, times the distance.

    With a tolerance each image takes only the steps that its own completeness needs, at most `max_steps`.
    """

    paper = "Sundararajan et al. 2017, arXiv:1703.01365, eq. 1"
    axioms = frozenset(
        {"completeness", "sensitivity_a", "sensitivity_b", "linearity", "implementation_invariance", "symmetry"}
    )
    short: ClassVar[tuple[str, ...]] = ("ig",)
    walks = True
    default_baseline = "zero"
    captum: ClassVar[tuple[str, ...]] = ("IntegratedGradients", "LayerIntegratedGradients", "NeuronIntegratedGradients")
    n_steps: int = 50
    method: str = "gausslegendre"
    multiply_by_inputs: bool = True
    tolerance: float | None = None
    """How far from the score's difference attributions may add up, as a share of it; takes the place of n_steps and method."""
    max_steps: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance is not None and self.tolerance <= 0:
            raise AttributionError(f"tolerance={self.tolerance} can't be reached: give a share like 0.05")
        if self.max_steps < 1:
            raise AttributionError(f"max_steps={self.max_steps} is too few")

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        return self.attributed(site, x, baseline).features

    def attributed(self, site: Site, x: Features, baseline: Features) -> Attributed:
        """The attribution, and with a tolerance the gradients that each image took."""
        f, start, end = site.tail(x), site.features(baseline), site.features(x)
        if self.tolerance is None:
            mean_gradient, steps = f.mean_gradient(start, end - start, quadrature(self.method, self.n_steps)), None
        else:
            mean_gradient, steps = settled_mean(f, start, end, self.tolerance, self.max_steps)
        return Attributed((end - start) * mean_gradient if self.multiply_by_inputs else mean_gradient, steps)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        # With a tolerance of 5 % photographs take about 30.
        return Cost(forward=1, forward_backward=self.n_steps if self.tolerance is None else min(30, self.max_steps))
