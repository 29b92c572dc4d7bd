"""What a Captum-named class does when it is asked: a Method at one of the four kinds of place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.captum_names.asked import Asked, Where
from attribution.method import Method
from attribution.methods.grad_cam import GradCam
from attribution.site import Site

Arguments = Mapping[str, Any]
Answer = Callable[[Any, Arguments], Any]
"""From a Captum-named object and the arguments of `attribute`, defaults filled in, to what `attribute` returns."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """Ask a Method; `local` is asked instead where the inputs are no factor."""

    method: Callable[..., Method]
    where: Where = "input"
    renamed: Mapping[str, str] = field(default_factory=dict)
    local: Method | None = None

    def __call__(self, owner: Any, given: Arguments) -> Any:
        asked = Asked(owner, given, self.where)
        method = made(self.method, {**vars(owner), **given}, self.renamed)
        if self.local is not None and not owner.multiplies_by_inputs:
            method = self.local
        features = method.attribute(asked.site, asked.x, **asked.needs(method.needs()))
        answer = asked.packed(features)
        return (answer, asked.delta(features)) if given.get("return_convergence_delta") else answer


def made(method: Callable[..., Method], settings: Arguments, renamed: Mapping[str, str]) -> Method:
    """A Method with those of Captum's settings that are its parameters; `renamed` says what Captum calls a parameter."""
    preset = getattr(method, "keywords", {})
    kind: Any = getattr(method, "func", method)
    names = {name: renamed.get(name, name) for name in kind.parameters() if name not in preset}
    return method(**{name: settings[captum] for name, captum in names.items() if captum in settings})


@dataclass(frozen=True)
class ChannelGradCam(Method, listed=False):
    """GradCAM as Captum defines it: channels are dimension 1, also in layers without places; summed, or one map each."""

    paper = GradCam.paper
    relu: bool = False
    summed: bool = True

    def attribute(self, site: Site, x: Features) -> Features:
        point = site.at(x)
        pairs = zip(parts_of(point.features), parts_of(point.gradient), strict=True)
        return bundled([self._map(activation, gradient) for activation, gradient in pairs])

    def _map(self, activation: Tensor, gradient: Tensor) -> Tensor:
        places = tuple(range(2, activation.dim()))
        maps = activation * (gradient.mean(places, keepdim=True) if places else gradient)
        cam = maps.sum(1, keepdim=True) if self.summed else maps
        return cam.relu() if self.relu else cam
