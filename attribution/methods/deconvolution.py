"""Deconvolution: the gradient of a network whose rectifiers rectify what comes back."""

from dataclasses import dataclass

from attribution.bundle import Features
from attribution.method import Attributed, Method
from attribution.ruled import propagated
from attribution.rules.rectified import DECONVOLVED
from attribution.site import Site


@dataclass(frozen=True)
class Deconvolution(Method):
    """The gradient, of which each rectifier passes back what is positive, whatever went forward.

    Of smooth rectifiers (SiLU, GELU, Hardswish, ELU, ...) alike: the rule looks at the way back only. Max-pooling goes
    back to its winners. A model without rectifiers gets its plain gradient and a warning.
    """

    paper = "Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1"
    axioms = frozenset({"sensitivity_b"})
    slopes = True
    predicts = True
    places = frozenset({"input", "neuron"})
    short = ("deconv",)
    captum = ("Deconvolution", "NeuronDeconvolution")

    def attribute(self, site: Site, x: Features) -> Features:
        return self.attributed(site, x).features

    def attributed(self, site: Site, x: Features) -> Attributed:
        """The attribution, and the logits of the same pass."""
        point = propagated(site, x, DECONVOLVED)
        return Attributed(point.gradient, logits=point.logits)
