"""What flows through one neuron of a layer as what is credited to the images."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import nn

from attribution.bundle import Features
from attribution.errors import ModelError
from attribution.gradients import as_leaf, gradient_of, gradients_of
from attribution.hooks import Place
from attribution.passes import Passes, Rows
from attribution.score import AtIndex, Pick, Score
from attribution.site import Point, Site
from attribution.tap import Tap, accumulated


class Through(Site):
    """The images are credited, but only for what flows through one neuron of a layer.

    Its gradient is d score / d neuron times d neuron / d x, so that Integrated Gradients here is NeuronConductance
    (Shrikumar et al. 2018, arXiv:1807.09946, eq. 2).
    """

    def __init__(
        self, explained: Score, layer: nn.Module | Place, index: tuple[int, ...] | Pick, passes: Passes | None = None
    ) -> None:
        super().__init__(explained, passes)
        self.place = layer if isinstance(layer, Place) else Place(layer)
        self.pick: Pick = index if callable(index) else AtIndex(index)

    def features(self, x: Features) -> Features:
        """X."""
        return x

    def tail(self, x: Features) -> Through:  # noqa: ARG002  # the same function wherever x is
        """This site."""
        return self

    @property
    def key(self) -> Hashable:
        """The score's, the place and the neuron."""
        return self.explained.key and (Through, self.place, self.pick, self.explained.key)

    def explaining(self, explained: Score) -> Through:
        """The images, credited for what flows through the neuron to another score."""
        return Through(explained, self.place, self.pick, self.passes)

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:  # noqa: ARG002  # there is no such pass
        """Two gradients make this site's answer, so that no single pass stands for it."""
        raise ModelError(
            "what flows through a neuron follows gradients, not rules: credit the input or a layer instead"
        )

    def _at(self, x: Features, rows: Rows) -> Point:
        leaf = as_leaf(x)
        with Tap(self.place, grad=True) as tap:
            score = self.explained.rows(rows)(leaf)
        with self.passes.backward():
            outer = self.pick(gradients_of(score, tap.parts, retain_graph=True))
            through = self.pick(tap.parts) * outer.detach()
            return Point(accumulated(score), leaf, gradient_of(through, leaf))
