"""Metric: a question about maps as a frozen value, and METRICS, the one table of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from attribution.bundle import Features
from attribution.errors import ExpressionError, nearest
from attribution.expression import changed, construct, parse_call, snake_case, spelled
from attribution.images import Images
from attribution.noise import Draws
from attribution.site import Site

METRICS: dict[str, type[Metric]] = {}
"""Every metric by its one name, which is also its column in the summary."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """The maps that a method made of some images, and what it takes to examine them."""

    site: Site
    images: Images
    attribution: Features
    again: Callable[[Features], Features]
    """The same method asked about other pixels of these images, everything else as it was."""
    shares: Features | None
    """The attribution as shares of the score; None where it holds slopes."""
    reference: Features
    """What stands for "nothing there".  (1 or N, C, H, W)"""
    draws: Draws


@dataclass(frozen=True)
class Metric(ABC):
    """One number per image that says something about a map. Fields are its parameters."""

    paper: ClassVar[str]
    n_samples: int = 10

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter the class in METRICS."""
        super().__init_subclass__(**kwargs)
        METRICS[snake_case(cls.__name__)] = cls

    def __post_init__(self) -> None:
        """Refuse a count below one."""
        if self.n_samples < 1:
            raise ExpressionError(f"{self.name}(n_samples={self.n_samples}): at least 1 is needed")

    @abstractmethod
    def measure(self, case: Case) -> Tensor | None:
        """The metric of each image; None where it says nothing about such a map.  -> (N,)"""

    @property
    def name(self) -> str:
        """The one spelling."""
        return snake_case(type(self).__name__)

    def __str__(self) -> str:
        return spelled(self.name, changed(self))


def parse_metric(text: str) -> Metric:
    """Read `infidelity` or `sensitivity_max(n_samples=5)`."""
    name, given = parse_call(text)
    if name not in METRICS:
        raise ExpressionError(f"metric {name!r} not found; {nearest(name, METRICS)}")
    return construct(METRICS[name], name, given)
