"""Guided Backprop: the gradient along the paths that are positive both ways."""

from dataclasses import dataclass

from attribution.bundle import Features
from attribution.method import Attributed, Method
from attribution.ruled import propagated
from attribution.rules.rectified import GUIDED
from attribution.site import Site


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient, of which each rectifier passes back only what is positive and was positive on the way forward.

    Smooth rectifiers (SiLU, GELU, Hardswish, ELU, ...) take part with their own slope in place of ReLU's step. A model
    without rectifiers gets its plain gradient and a warning.
    """

    paper = "Springenberg et al. 2015, arXiv:1412.6806, section 3.4"
    axioms = frozenset({"sensitivity_b"})
    slopes = True
    predicts = True
    places = frozenset({"input", "neuron"})
    short = ("guided",)
    captum = ("GuidedBackprop", "NeuronGuidedBackprop")

    def attribute(self, site: Site, x: Features) -> Features:
        return self.attributed(site, x).features

    def attributed(self, site: Site, x: Features) -> Attributed:
        """The attribution, and the logits of the same pass."""
        point = propagated(site, x, GUIDED)
        return Attributed(point.gradient, logits=point.logits)
