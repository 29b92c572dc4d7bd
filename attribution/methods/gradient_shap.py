"""Gradient SHAP: expected gradients over baselines, positions on the path, and noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.baselines import Baselines
from attribution.bundle import Features, between, expanded, parts_of, sent
from attribution.method import Cost, Method
from attribution.noise import Draws, Stdev, check_stdev, noisy
from attribution.site import Site


@dataclass(frozen=True)
class GradientShap(Method):
    """The mean of (x - baseline) times the gradient at random points between random baselines and noisy copies of x.

    The path runs in image space also when a layer is credited, as Captum's does: the layer's difference is taken
    between the image and the baseline, its gradient at the point between them.
    """

    paper = "Erion et al. 2021, arXiv:1906.10670, eq. 3; Lundberg and Lee 2017, arXiv:1705.07874"
    axioms = frozenset({"completeness_in_expectation", "sensitivity_b", "linearity", "implementation_invariance"})
    short = ("gradshap", "expected_gradients")
    default_baseline = "black,zero"
    captum = ("GradientShap", "LayerGradientShap", "NeuronGradientShap")
    n_samples: int = 5
    stdev: Stdev = 0.0
    multiply_by_inputs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stdev(self.stdev)

    def attribute(self, site: Site, x: Features, baselines: Baselines, draws: Draws) -> Features:
        total, near, end = parts_of(x)[0].new_zeros(()), x, site.features(x)
        for draw in range(self.n_samples):
            if self.stdev:
                near = noisy(x, self.stdev, draws, draw)
                end = site.features(near)
            baseline = baselines.pick(draws.integers(len(baselines), draw), x)
            alpha = draws.uniform(draw, like=parts_of(x)[0])
            gradient = site.gradient(between(baseline, near, alpha))
            distance = end - site.features(baseline) if self.multiply_by_inputs else torch.ones_like(gradient)
            total = torch.addcmul(total, distance, gradient)
        return total / self.n_samples

    def explained_difference(self, site: Site, x: Features, baselines: Baselines, draws: Draws) -> Tensor | None:
        """Against the baselines that were drawn, without their noise."""
        if not self.multiply_by_inputs:
            return None
        drawn = torch.stack([draws.integers(len(baselines), draw) for draw in range(self.n_samples)])  # (n_samples, N)
        reference = torch.zeros_like(site.score(x))
        for choice in sorted(set(drawn.flatten().tolist())):
            share = sent((drawn == choice).float().mean(0), reference.device).to(reference)
            reference = reference + share * site.score(expanded(baselines.members[choice], x))
        return site.score(x) - reference

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=2, forward_backward=self.n_samples)
