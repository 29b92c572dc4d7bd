"""Input x Gradient: the first-order share of each feature in the score."""

from dataclasses import dataclass

from attribution.bundle import Features
from attribution.method import Method
from attribution.site import Site


@dataclass(frozen=True)
class InputXGradient(Method):
    """The features times the gradient; at a layer, activation times gradient."""

    paper = "Shrikumar et al. 2016, arXiv:1605.01713, sec. 2"
    axioms = frozenset({"sensitivity_b", "implementation_invariance", "linearity"})
    places = frozenset({"input", "layer"})
    short = ("ixg", "gradient_x_input", "layer_gradient_x_activation")
    reads_pass = True
    captum = ("InputXGradient", "LayerGradientXActivation")

    def attribute(self, site: Site, x: Features) -> Features:
        point = site.at(x)
        return point.features * point.gradient
