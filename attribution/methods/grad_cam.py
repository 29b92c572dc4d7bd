"""GradCAM: which places of a convolutional layer speak for the score."""

from dataclasses import dataclass

import torch

from attribution.bundle import Features, bundled, parts_of
from attribution.errors import LayerError
from attribution.method import Method
from attribution.site import Site


@dataclass(frozen=True)
class GradCam(Method):
    """The layer's channels, each weighted by its mean gradient, summed to one map at the layer's own resolution."""

    paper = "Selvaraju et al. 2017, arXiv:1610.02391, eq. 1-2"
    axioms = frozenset({"implementation_invariance"})
    places = frozenset({"layer"})
    short = ("gradcam", "layer_grad_cam")
    reads_pass = True
    captum = ("LayerGradCam",)
    relu: bool = True
    layout: str = "NCHW"
    """How the layer lays out its activation: NCHW, NHWC (Swin), or NLC, tokens of a square grid, after a class token where one is left over (ViT)."""

    def attribute(self, site: Site, x: Features) -> Features:
        point = site.at(x)
        return bundled(
            [
                self._map(to_channels_first(activation, self.layout), to_channels_first(gradient, self.layout))
                for activation, gradient in zip(parts_of(point.features), parts_of(point.gradient), strict=True)
            ]
        )

    def _map(self, activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        weights = gradient.flatten(2).mean(2)  # (N, C), eq. 1
        cam: torch.Tensor = torch.einsum("nc,nc...->n...", weights, activation).unsqueeze(1)  # (N, 1, *spatial), eq. 2
        return cam.relu() if self.relu else cam

    def map_shape(self, features: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *to_channels_first(torch.empty(1, *features, device="meta"), self.layout).shape[2:])


def to_channels_first(activation: torch.Tensor, layout: str) -> torch.Tensor:
    """An activation with its channels in dimension 1 and its places behind.  -> (N, C, *spatial)"""
    if layout == "NCHW" and activation.dim() >= 3:
        return activation
    if layout == "NHWC" and activation.dim() == 4:
        return activation.movedim(-1, 1)
    if layout == "NLC" and activation.dim() == 3:
        tokens = activation.shape[1]
        side = int(tokens**0.5)
        places = activation[:, tokens - side * side :].movedim(-1, 1)
        return places.reshape(*places.shape[:2], side, side)
    raise LayerError(
        f"grad_cam(layout={layout!r}) does not fit an activation of shape {tuple(activation.shape[1:])}: "
        "pass layout='NHWC' for channels last, 'NLC' for tokens, or name a convolutional layer"
    )
