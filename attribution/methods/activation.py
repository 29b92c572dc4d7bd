"""Activation: what a layer shows of the image, whatever the score makes of it."""

from dataclasses import dataclass

import torch

from attribution.bundle import Features, parts_of
from attribution.gradients import at_least_float32
from attribution.graphs import Told
from attribution.method import Attributed, Cost, Method
from attribution.passes import Rows
from attribution.score import Aiming
from attribution.site import Site


@dataclass(frozen=True)
class Activation(Method):
    """The layer's activation itself."""

    paper = "Erhan et al. 2009, Visualizing Higher-Layer Features of a Deep Network, sec. 3"
    slopes = True
    places = frozenset({"layer"})
    short = ("layer_activation",)
    predicts = True
    captum = ("LayerActivation",)

    def attribute(self, site: Site, x: Features) -> Features:
        return site.features(x)

    def attributed(self, site: Site, x: Features) -> Attributed:
        """The activation, and where a target waits for them the logits of the same pass."""
        if not isinstance(site.explained, Aiming):
            return Attributed(self.attribute(site, x))
        logits, features = site.passes.over(len(x), lambda rows: site.replayed(_both, _both, x[rows], rows))
        return Attributed(features, logits=parts_of(logits)[0])

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1)


def _both(site: Site, x: Features, rows: Rows) -> Told:
    with torch.no_grad():
        output, features = site.forward(x, rows)
    return output.detach(), at_least_float32(features.detach())
