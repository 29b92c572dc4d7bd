"""Noise tunnels: a method's maps over noisy copies of the image, reduced to one."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from attribution.bundle import Features, parts_of
from attribution.errors import AttributionError, nearest
from attribution.method import Cost, Method
from attribution.noise import Draws, Stdev, check_stdev, noisy
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
    stdev: Stdev = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise AttributionError(f"noise {self.kind!r} not found; {nearest(self.kind, KINDS)}")
        if self.samples < 1:
            raise AttributionError(f"samples={self.samples} is too few")
        check_stdev(self.stdev)

    def attribute(self, site: Site, x: Features, draws: Draws, **needs: Any) -> Features:
        return self.reduced(*self.moments(site, x, draws, **needs))

    def moments(self, site: Site, x: Features, draws: Draws, **needs: Any) -> tuple[Features, Features]:
        """Mean and variance of the method's maps over the noisy copies, which all kinds are made of."""
        inner = self.method.needs()
        mean = squares = parts_of(x)[0].new_zeros(())
        for sample in range(self.samples):
            near = noisy(x, self.stdev, draws, sample)
            own = {"draws": draws.within(sample)} if "draws" in inner else {}
            attribution = self.method.attribute(site, near, **needs, **own)
            # Welford: the sum of squared distances from the running mean, which no cancellation makes negative
            step = attribution - mean
            mean = torch.add(mean, step, alpha=1 / (sample + 1))
            squares = torch.addcmul(squares, step, attribution - mean)
        return mean, squares / self.samples

    def reduced(self, mean: Features, variance: Features) -> Features:
        """What this kind makes of them."""
        return {"smoothgrad": mean, "smoothgrad_sq": variance + mean * mean, "vargrad": variance}[self.kind]

    def explained_difference(self, site: Site, x: Features, **needs: Any) -> None:
        """Nothing is promised of a noisy mean."""

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        once = self.method.cost(image_shape)
        return Cost(forward=once.forward * self.samples, forward_backward=once.forward_backward * self.samples)

    def around(self, method: Method) -> "NoiseTunnel":
        """The same tunnel around another method."""
        return replace(self, method=method)
