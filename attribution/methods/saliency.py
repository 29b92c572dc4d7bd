"""Saliency: how strongly the score reacts to each feature."""

from dataclasses import dataclass

from attribution.bundle import Features
from attribution.method import Method
from attribution.site import Site


@dataclass(frozen=True)
class Saliency(Method):
    """The gradient of the score, by default its absolute value."""

    paper = "Simonyan et al. 2013, arXiv:1312.6034, eq. 3-4"
    axioms = frozenset({"sensitivity_b", "implementation_invariance"})
    slopes = True
    places = frozenset({"input", "neuron"})
    short = ("gradient", "grad")
    reads_pass = True
    captum = ("Saliency", "NeuronGradient")
    abs: bool = True

    def attribute(self, site: Site, x: Features) -> Features:
        gradient = site.gradient(x)
        return gradient.abs() if self.abs else gradient
