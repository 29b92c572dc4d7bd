"""Several layers credited together: their activations, one beside the other, are one vector of features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.gradients import as_leaf
from attribution.hooks import Parts, Place
from attribution.passes import Passes, Rows
from attribution.score import Score
from attribution.site import Site
from attribution.tap import Tap, accumulated


class Layers(Site):
    """The activations of several layers, none of which makes all that another one gets."""

    def __init__(self, explained: Score, places: Sequence[Place], passes: Passes | None = None) -> None:
        super().__init__(explained, passes)
        self.places = tuple(places)

    def features(self, x: Features) -> Features:
        """All activations."""
        with torch.no_grad():
            return self.passes.over(len(x), lambda rows: (_activations(self._visited(x, rows)),))[0]

    def tail(self, x: Features) -> Site:
        """What follows the layers."""
        with torch.no_grad():
            taps = self._visited(x, slice(0, len(x)))
        called = [replace(tap.place, call=tap.calls - 1) for tap in taps]
        return _Tail(self, called, [len(tap.parts) for tap in taps], x)

    def grouped(self, x: Features, parts: Parts) -> list[Parts]:
        """The parts of a result, layer by layer."""
        with torch.no_grad():
            return _grouped(parts, [len(tap.parts) for tap in self._visited(x, slice(0, len(x)))])

    def explaining(self, explained: Score) -> Layers:
        """The layers, credited for another score."""
        return Layers(explained, self.places, self.passes)

    def _visited(self, x: Features, rows: Rows) -> list[Tap]:
        with ExitStack() as opened:
            taps = [opened.enter_context(Tap(place)) for place in self.places]
            self.explained.rows(rows).output(x[rows])
        return taps

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """The output, and all activations on its way."""
        with ExitStack() as opened:
            taps = [opened.enter_context(Tap(place, grad=True)) for place in self.places]
            output = self.explained.rows(rows).output(x)
        return output, bundled([part for tap in taps for part in tap.parts])


class _Tail(Site):
    """The score as a function of the layers' activations, everything else as it is at x."""

    is_of_images = False

    def __init__(self, layers: Layers, places: Sequence[Place], counts: Sequence[int], x: Features) -> None:
        super().__init__(layers.explained, layers.passes)
        self.layers, self.places, self.counts, self.x = layers, places, counts, x

    def features(self, x: Features) -> Features:
        """The activations themselves."""
        return x

    def tail(self, x: Features) -> Site:  # noqa: ARG002  # this is the function already
        """This site."""
        return self

    def rows(self, index: Tensor) -> Site:
        """The same site for those images only."""
        return self.layers.rows(index).tail(self.x[index])

    def explaining(self, explained: Score) -> Site:
        """The same function, ending in another score."""
        return self.layers.explaining(explained).tail(self.x)

    def _score(self, x: Features, rows: Rows) -> Tensor:
        return self.explained.rows(rows).of(self._output(x, rows))

    def _output(self, x: Features, rows: Rows) -> Any:
        with ExitStack() as opened:
            for place, parts in zip(self.places, _grouped(parts_of(x), self.counts), strict=True):
                opened.enter_context(Tap(place, replacement=parts))
            return self.explained.rows(rows).output(self.x[rows])

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """The output for the activations x."""
        leaf = as_leaf(x)
        return self._output(leaf, rows), leaf


def _activations(taps: Sequence[Tap]) -> Features:
    return bundled([accumulated(part) for tap in taps for part in tap.parts])


def _grouped(parts: Parts, counts: Sequence[int]) -> list[Parts]:
    remaining = iter(parts)
    return [tuple(next(remaining) for _ in range(count)) for count in counts]
