"""A layer's activation as the place that is credited."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attribution.bundle import Features, bundled, parts_of
from attribution.graphs import Told
from attribution.hooks import Place
from attribution.passes import Passes, Rows
from attribution.score import Score
from attribution.site import Site
from attribution.tap import Tap, accumulated

if TYPE_CHECKING:
    from attribution.tail import Tail


class Layer(Site):
    """A layer's activation is credited: its output, or its input."""

    def __init__(self, explained: Score, layer: nn.Module | Place, passes: Passes | None = None) -> None:
        super().__init__(explained, passes)
        self.place = layer if isinstance(layer, Place) else Place(layer)
        self._tail: Tail | None = None

    def features(self, x: Features) -> Features:
        """The layer's activation; the pass ends there, and is none where the tail at x has been recorded."""
        if self._tail is not None and self._tail.x is x:
            return self._tail.activation()
        return self.activation(x)

    def activation(self, x: Features) -> Features:
        """The layer's activation, by a pass that ends there; for a baseline that all images share, by one of one row."""
        with torch.no_grad():
            if self.is_one_image(x):
                (one,) = self.replayed(_activated, _activated, x[:1], slice(0, 1))
                return bundled([part.expand(len(x), *part.shape[1:]) for part in parts_of(one)])
            return self.passes.over(len(x), lambda rows: self.replayed(_activated, _activated, x[rows], rows))[0]

    def tail(self, x: Features) -> Site:
        """The network behind the layer, without computing again what comes before it."""
        from attribution.tail import Tail  # a Tail is made by a Layer and asks its Layer back

        self._tail = Tail(self, x)
        return self._tail

    @property
    def key(self) -> Hashable:
        """The score's and the place."""
        return self.explained.key and (Layer, self.place, self.explained.key)

    def explaining(self, explained: Score) -> Layer:
        """The layer, credited for another score."""
        return Layer(explained, self.place, self.passes)

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """The output, and the layer's activation on its way to it."""
        with Tap(self.place, grad=True) as tap:
            output = self.explained.rows(rows).output(x)
        return output, bundled(tap.parts)


def _activated(site: Layer, x: Features, rows: Rows) -> Told:
    with Tap(site.place, ends=True) as tap:
        tap.run(lambda: site.explained.rows(rows).output(x))
    return (bundled([accumulated(part) for part in tap.parts]),)
