"""Internal Influence: the mean gradient at a layer while the image comes out of its baseline."""

from dataclasses import dataclass

from attribution.bundle import Features
from attribution.method import Cost, Method
from attribution.quadrature import quadrature
from attribution.site import Site


@dataclass(frozen=True)
class InternalInfluence(Method):
    """The gradient of the score with respect to the layer, averaged along the straight path of images from the baseline."""

    paper = "Leino et al. 2018, arXiv:1802.03788, def. 1"
    axioms = frozenset({"linearity"})
    slopes = True
    places = frozenset({"layer"})
    default_baseline = "zero"
    captum = ("InternalInfluence",)
    n_steps: int = 50
    method: str = "gausslegendre"

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        return site.mean_gradient(baseline, x - baseline, quadrature(self.method, self.n_steps))

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward_backward=self.n_steps)
