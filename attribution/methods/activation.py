"""Activation: what a layer shows of the image, whatever the score makes of it."""

from dataclasses import dataclass

from attribution.bundle import Features
from attribution.method import Cost, Method
from attribution.site import Site


@dataclass(frozen=True)
class Activation(Method):
    """The layer's activation itself."""

    paper = "Erhan et al. 2009, Visualizing Higher-Layer Features of a Deep Network, sec. 3"
    slopes = True
    places = frozenset({"layer"})
    short = ("layer_activation",)
    captum = ("LayerActivation",)

    def attribute(self, site: Site, x: Features) -> Features:
        return site.features(x)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1)
