"""The network behind a layer as a function of the layer's activation, without running again what comes before it."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.front import Front, FrontDiffers
from attribution.gradients import as_leaf
from attribution.graphs import Told
from attribution.passes import Rows
from attribution.score import Score, logits_of
from attribution.site import Ask, Site
from attribution.tap import Tap, accumulated

if TYPE_CHECKING:
    from attribution.layer import Layer

logger = logging.getLogger(__name__)


class Tail(Site):
    """The function that a layer's activations go through on their way to the score, the rest of the network as it is at x.

    The calls made before the layer are answered from one recorded pass (`Front`). Where that can't be done safely, the
    whole model runs with the activation put in place by a hook; `path` says which of the two it is.
    """

    is_of_images = False
    credits_x = True

    def __init__(self, layer: Layer, x: Features) -> None:
        super().__init__(layer.explained, layer.passes)
        self.layer, self.x = layer, x
        self.place = layer.place
        self.path = "replay"
        self._fronts: dict[tuple[int, int], Front] = {}

    def features(self, x: Features) -> Features:
        """The activation itself."""
        return x

    def activation(self) -> Features:
        """The layer's own activation at the images, from the pass that recorded what comes before it."""

        def one_pass(rows: Rows) -> tuple[Features]:
            return (bundled([accumulated(part) for part in self._front(rows).activation]),)

        try:
            return self.passes.over(len(self.x), one_pass)[0]
        except FrontDiffers as reason:
            self._give_up_replaying(reason)
            return self.layer.activation(self.x)

    def logits(self) -> Tensor:
        """The model's at the images, from the pass that recorded what comes before the layer.  -> (N, classes)"""
        return parts_of(self.passes.over(len(self.x), lambda rows: (logits_of(self._front(rows).output),))[0])[0]

    def tail(self, x: Features) -> Tail:  # noqa: ARG002  # this is the function already
        """This site."""
        return self

    def rows(self, index: Tensor) -> Site:
        """The same site for those images only."""
        return self.layer.rows(index).tail(self.x[index])

    def explaining(self, explained: Score) -> Tail:
        """The same function, ending in another score: what comes before the layer stays recorded."""
        tail = Tail(self.layer.explaining(explained), self.x)
        tail.place, tail.path, tail._fronts = self.place, self.path, self._fronts
        return tail

    def replayed(self, name: Hashable, ask: Ask, x: Features, rows: Rows, *others: Features) -> Told:
        """As any site's, with the images and what their front left among the inputs: one recording serves all images."""
        graphs = self.passes.capturing(self.layer.key, x, self.x, *others)
        front = None if graphs is None else self._front_to_capture(rows)
        if graphs is None or front is None:
            return ask(self, x, rows, *others)
        behind = 1 + len(others)

        def one_pass(x: Tensor, *tensors: Tensor) -> Told:
            image, left, own = (
                tensors[behind - 1],
                tensors[behind : behind + len(front.left)],
                tensors[behind + len(front.left) :],
            )
            layer = self.layer.explaining(self.explained.having(*own))
            site = Tail.behind(layer, image, front.leaving(left))
            told = ask(site, x, slice(0, len(x)), *tensors[: len(others)])
            self.path = site.path
            return told

        given = (x, *others, self.x[rows], *front.left, *self.explained.rows(rows).tensors)
        return graphs.run((name, Tail, self.layer.key, front.functions), one_pass, *given)

    @classmethod
    def behind(cls, layer: Layer, x: Features, front: Front) -> Tail:
        """The function behind a front that is known."""
        tail = cls(layer, x)
        tail.place, tail._fronts = front.place, {(0, len(x)): front}
        return tail

    def _front_to_capture(self, rows: Rows) -> Front | None:
        if self.path != "replay":
            return None
        try:
            return self._front(rows)
        except FrontDiffers as reason:
            self._give_up_replaying(reason)
            return None

    def _score(self, x: Features, rows: Rows) -> Tensor:
        return self.explained.rows(rows).of(self._output(x, rows))

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """The output for the activation x."""
        leaf = as_leaf(x)
        return self._output(leaf, rows), leaf

    def _output(self, activation: Features, rows: Rows) -> Any:
        if self.path == "replay":
            try:
                return self._replayed(activation, rows)
            except FrontDiffers as reason:
                self._give_up_replaying(reason)
        self._settle_call(rows)
        with Tap(self.place, replacement=parts_of(activation)):
            return self.explained.rows(rows).output(self.x[rows])

    def _replayed(self, activation: Features, rows: Rows) -> Any:
        explained, image, front = self.explained.rows(rows), self.x[rows], self._front(rows)
        with front.answering() as answers, Tap(front.place, replacement=parts_of(activation), on_reach=answers.end):
            return explained.output(image)

    def _front(self, rows: Rows) -> Front:
        """The recorded front of these rows."""
        key = (rows.start, rows.stop) if isinstance(rows, slice) else (int(rows[0]), int(rows[0]) + len(rows))
        if key not in self._fronts:
            self._settle_call(rows)
            with torch.no_grad():
                self._fronts[key] = self._recorded(self.explained.rows(rows), self.x[rows])
        return self._fronts[key]

    def _recorded(self, explained: Score, x: Features) -> Front:
        """By a pass that is captured where it can be: of other images it makes the same calls, and tells other tensors."""
        graphs = self.passes.capturing(self.layer.key, x)
        if graphs is None:
            like = next(iter(self._fronts.values()), None)
            return Front.record(lambda: explained.output(x), self.place, like)
        key, made = (Front, self.layer.key, self.place, x.shape, x.dtype), list[Front]()

        def one_pass(x: Tensor) -> Told:
            front = Front.record(lambda: explained.output(x), self.place, graphs.known.get(key))
            if front.is_overwritten:
                raise FrontDiffers("the model overwrites a tensor made before the layer")
            made.append(front)
            return front.tensors

        told = graphs.run(key, one_pass, x)
        if made:  # the first of x itself, a second by the recording
            graphs.known[key] = made[0]
            return made[0]
        known: Front = graphs.known[key]
        return known.telling(told)

    def _give_up_replaying(self, reason: FrontDiffers) -> None:
        logger.info("a layer's front can't be replayed, the whole model runs instead: %s", reason)
        self.path = "hook"
        self._fronts.clear()

    def _settle_call(self, rows: Rows) -> None:
        """Turn "the last call" into a number, known after one pass."""
        if self.place.call is not None and self.place.call < 0:
            with torch.no_grad(), Tap(self.place) as tap:
                self.explained.rows(rows)(self.x[rows])
            self.place = replace(self.place, call=tap.calls + self.place.call)
