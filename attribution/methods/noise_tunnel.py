"""Noise tunnels: a method's maps over noisy copies of the image, reduced to one."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of, per_row
from attribution.errors import AttributionError, nearest
from attribution.method import Cost, Method
from attribution.noise import Draws
from attribution.site import Site

KINDS = {
    "smoothgrad": "Smilkov et al. 2017, arXiv:1706.03825, sec. 3",
    "smoothgrad_sq": "Hooker et al. 2019, arXiv:1806.10758, sec. 3",
    "vargrad": "Adebayo et al. 2018, arXiv:1810.03292, sec. 4",
}


@dataclass(frozen=True)
class NoiseTunnel(Method, listed=False):
    """The mean, mean square or variance of a method's maps over images with added normal noise."""

    paper = "; ".join(KINDS.values())
    method: Method
    kind: str = "smoothgrad"
    samples: int = 5
    stdev: float | str = 0.1
    """In normalised units, or as a share of each image's own range: "0.15r"."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise AttributionError(f"noise {self.kind!r} not found; {nearest(self.kind, KINDS)}")
        if self.samples < 1:
            raise AttributionError(f"samples={self.samples} is too few")
        if isinstance(self.stdev, str):
            _share(self.stdev)

    def attribute(self, site: Site, x: Features, draws: Draws, **needs: Any) -> Features:
        inner = self.method.needs()
        mean = torch.zeros(())
        squares = torch.zeros(())
        for sample in range(self.samples):
            noisy = self.noisy(x, draws, sample)
            own = {"draws": draws.within(sample)} if "draws" in inner else {}
            attribution = self.method.attribute(site, noisy, **needs, **own)
            # Welford: the sum of squared distances from the running mean, which no cancellation makes negative
            step = attribution - mean
            mean = mean + step / (sample + 1)
            squares = squares + step * (attribution - mean)
        variance = squares / self.samples
        return {"smoothgrad": mean, "smoothgrad_sq": variance + mean * mean, "vargrad": variance}[self.kind]

    def noisy(self, x: Features, draws: Draws, sample: int) -> Features:
        """X with the noise of one sample."""
        noise = parts_of(draws.normal(x, sample))
        return bundled(
            [part + _stdev(self.stdev, part) * added for part, added in zip(parts_of(x), noise, strict=True)]
        )

    def explained_difference(self, site: Site, x: Features, **needs: Any) -> None:
        """Nothing is promised of a noisy mean."""

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        once = self.method.cost(image_shape)
        return Cost(forward=once.forward * self.samples, forward_backward=once.forward_backward * self.samples)

    def around(self, method: Method) -> "NoiseTunnel":
        """The same tunnel around another method."""
        return replace(self, method=method)


def _stdev(stdev: float | str, part: Tensor) -> Tensor | float:
    if not isinstance(stdev, str):
        return stdev
    flat = part.flatten(1)
    return per_row(_share(stdev) * (flat.amax(1) - flat.amin(1)), part)


def _share(stdev: str) -> float:
    try:
        return float(stdev.removesuffix("r")) if stdev.endswith("r") else _refuse(stdev)
    except ValueError:
        return _refuse(stdev)


def _refuse(stdev: str) -> float:
    raise AttributionError(
        f"stdev {stdev!r} not understood; use a number in normalised units, or a share of the range like '0.15r'"
    )
