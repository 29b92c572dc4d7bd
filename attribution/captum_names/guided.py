"""Guided GradCAM: where a layer's map says, Guided Backprop says what."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from attribution.bundle import bundled, parts_of
from attribution.captum_names.asked import Asked
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.formula import Arguments, ChannelGradCam
from attribution.methods.guided_backprop import GuidedBackprop


def guided_grad_cam(owner: Any, given: Arguments) -> Any:
    """Guided Backprop times the layer's positive GradCAM, enlarged to the image."""
    at_layer, at_input = Asked(owner, given, "layer"), Asked(owner, given)
    (cam, *others) = parts_of(ChannelGradCam(relu=True).attribute(at_layer.site, at_layer.x))
    if others:
        raise ArgumentError(f"the layer has {1 + len(others)} tensors: name a layer with one map")
    guided = parts_of(GuidedBackprop().attribute(at_input.site, at_input.x))
    return at_input.packed(bundled([part * _enlarged(cam, part, given["interpolate_mode"]) for part in guided]))


def _enlarged(cam: Tensor, part: Tensor, mode: str) -> Tensor:
    if cam.dim() != part.dim() or cam.dim() < 3:
        raise ArgumentError(
            f"a map of shape {tuple(cam.shape)} can't be enlarged to an input of shape {tuple(part.shape)}: "
            "name a convolutional layer"
        )
    return functional.interpolate(cam, size=part.shape[2:], mode=mode)
