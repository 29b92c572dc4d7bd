"""Guided GradCAM: guided backprop's detail where GradCAM looks."""

from dataclasses import dataclass

from torch.nn import functional

from attribution.bundle import Features, parts_of
from attribution.errors import AttributionError
from attribution.hooks import Place
from attribution.method import Cost, Method
from attribution.methods.grad_cam import GradCam
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.passes import Passes
from attribution.score import NeuronScore, Score
from attribution.site import Input, Site

MODES = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class GuidedGradCam(Method):
    """Guided backprop's map of the image times the layer's GradCAM, enlarged to the image."""

    paper = "Selvaraju et al. 2017, arXiv:1610.02391, sec. 3.3"
    places = frozenset({"layer"})
    slopes = True
    captum = ("GuidedGradCam",)
    layout: str = "NCHW"
    interpolate_mode: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interpolate_mode not in MODES:
            raise AttributionError(
                f"interpolate_mode {self.interpolate_mode!r} not found; use one of {', '.join(MODES)}"
            )

    def attribute(self, site: Site, x: Features, layer: Site) -> Features:
        cam = parts_of(GradCam(layout=self.layout).attribute(layer, x))[0]  # (N, 1, h, w)
        enlarged = functional.interpolate(cam, size=tuple(x.shape[2:]), mode=self.interpolate_mode)
        return GuidedBackprop().attribute(site, x) * enlarged

    def site(self, explained: Score, at: Place | None, of: NeuronScore | None, passes: Passes) -> Site:
        """The image is credited; the layer that is looked at is a need."""
        return Input(explained if of is None else of, passes)

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward_backward=2)
