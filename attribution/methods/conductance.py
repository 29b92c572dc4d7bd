"""Conductance: how much of the score flows through each unit of a layer, and from which features it comes."""

from dataclasses import dataclass

import torch

from attribution.bundle import Features
from attribution.hooks import Place
from attribution.method import Cost, Method
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.passes import Passes
from attribution.quadrature import quadrature
from attribution.score import NeuronScore, Score
from attribution.site import Site
from attribution.through import Through


@dataclass(frozen=True)
class Conductance(Method):
    """The layer's gradient times its change, summed over the steps of the straight path of images from the baseline."""

    paper = "Dhamdhere et al. 2018, arXiv:1805.12233, eq. 3; computed as in Shrikumar et al. 2018, arXiv:1807.09946"
    axioms = frozenset({"completeness", "linearity"})
    places = frozenset({"layer"})
    short = ("layer_conductance",)
    default_baseline = "zero"
    captum = ("LayerConductance",)
    n_steps: int = 50
    method: str = "gausslegendre"
    """Where the n_steps + 1 ends of the steps lie; its weights play no part."""

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        path = x - baseline
        first, *inner, last = (alpha for alpha, _ in quadrature(self.method, self.n_steps + 1))
        here = site.at(baseline + first * path)
        total = torch.zeros(())
        for alpha in inner:
            there = site.at(baseline + alpha * path)
            total = total + here.gradient * (there.features - here.features)
            here = there
        return total + here.gradient * (site.features(baseline + last * path) - here.features)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1, forward_backward=self.n_steps)


@dataclass(frozen=True)
class NeuronConductance(IntegratedGradients):
    """What each feature gives to the score through one neuron: the chain rule at the neuron, averaged along the path."""

    paper = "Dhamdhere et al. 2018, arXiv:1805.12233, eq. 2; Shrikumar et al. 2018, arXiv:1807.09946, eq. 2"
    axioms = frozenset({"linearity"})
    places = frozenset({"through"})
    short = ()
    captum = ("NeuronConductance",)
    method: str = "riemann_trapezoid"

    def site(self, explained: Score, at: Place | None, of: NeuronScore | None, passes: Passes) -> Site:
        """The score as before, credit for what flows through the neuron."""
        assert of is not None  # a Question has seen to it
        return Through(explained, of.place, of.pick, passes)
