"""Site: where credit lands and what is explained, one small value with four verbs.

Every attribution method asks a scalar function about a place in the network:

    site.score(x)     -> (N,)            what is being explained, one number per image
    site.features(x)  -> (N, *features)  what is being credited: x itself, or a layer's activation at x
    site.gradient(x)  -> (N, *features)  d score / d features at image x
    site.tail(x)      -> Site            the rest of the network as a function of the features

`site.at(x)` gives the first three from one pass. Only a Site cuts rows into passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attribution.bundle import Features, cut, parts_of
from attribution.gradients import as_leaf, at_least_float32, gradient_of
from attribution.graphs import Told
from attribution.nearby import Nearby, Variant
from attribution.passes import Passes, Rows, count_of
from attribution.quadrature import Steps
from attribution.score import NeuronScore, Score, neuron
from attribution.tap import accumulated

__all__ = ["Input", "NeuronScore", "Point", "Score", "Site", "neuron"]


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """What one pass tells about x: score (N,), features and gradient (N, *features)."""

    score: Tensor
    features: Features
    gradient: Features


class Site(ABC):
    """A scalar function of the images and a place in the network that is credited for it."""

    is_of_images: ClassVar[bool] = True
    """Whether x is images, which a score depends on alone; a Tail's activation belongs to the image it was taken from."""
    credits_x: bool = False
    """Whether x itself is credited, so that no pass has to tell the features."""

    def __init__(self, explained: Score, passes: Passes | None = None) -> None:
        self.explained, self.passes = explained, passes or Passes()

    def score(self, x: Features) -> Tensor:
        """What is explained.  -> (N,)

        Where all rows of x are one image (a baseline expanded without memory), that image is passed once.
        """
        with torch.no_grad():
            if self.is_one_image(x):
                (score,) = self.replayed(_scored_as_one, _scored_as_one, x[:1], slice(0, len(x)))
                return parts_of(score)[0].expand(len(x))
            (score,) = self.passes.over(len(x), lambda rows: self._told(_scored, x[rows], rows))
        return parts_of(score)[0]

    def gradient(self, x: Features) -> Features:
        """The derivative of the score with respect to the features, at image x.  -> (N, *features)"""
        return self.passes.over(len(x), lambda rows: self._told(_sloped, x[rows], rows))[0]

    def at(self, x: Features) -> Point:
        """Score, features and gradient of one pass."""
        score, gradient, *told = self.passes.over(len(x), lambda rows: self._told(_pointed, x[rows], rows))
        features, _ = self.credited(x, told)
        return Point(parts_of(score)[0], features, gradient)

    def credited(self, x: Features, told: Sequence[Features]) -> tuple[Features, Sequence[Features]]:
        """The features at x, which a pass has told first where they are not x itself, and what else it has told."""
        return (at_least_float32(x.detach()), told) if self.credits_x else (told[0], told[1:])

    def telling(self, features: Features) -> Told:
        """What a pass has to tell of the features."""
        return () if self.credits_x else (at_least_float32(features.detach()),)

    def mean_gradient(self, start: Features, path: Features, steps: Steps) -> Features:
        """The gradient at start + alpha * path, summed with the weights.  -> (N, *features); start may be one row for all

        The rows of a pass take all steps before the next ones do, so that what is added up stays near the processor.
        """

        def one_pass(rows: Rows) -> tuple[Features]:
            near, way, total = cut(start, rows), path[rows], torch.zeros(())
            for number, (alpha, weight) in enumerate(steps):
                if number:
                    self.passes.passed(count_of(rows))
                (gradient,) = self._told(_sloped, torch.add(near, way, alpha=alpha), rows)
                total = torch.add(total, gradient, alpha=weight)
            return (total,)

        return self.passes.over(len(path), one_pass)[0]

    def scores(self, x: Features, variants: Sequence[Variant]) -> Tensor:
        """The score of each variant of x.  -> (N, variants)

        The rows of a pass show all variants before the next ones do.
        """

        def one_pass(rows: Rows) -> tuple[Tensor]:
            told = list[Tensor]()
            for score in self._scores_of(x, rows, variants):
                if told:
                    self.passes.passed(count_of(rows))
                told.append(score)
            return (torch.stack(told, 1),)

        with torch.no_grad():
            return parts_of(self.passes.over(len(x), one_pass)[0])[0]

    @abstractmethod
    def features(self, x: Features) -> Features:
        """What is credited, at image x.  -> (N, *features)"""

    @abstractmethod
    def tail(self, x: Features) -> Site:
        """The rest of the network as a function of the features, everything else as it is at x."""

    @property
    def key(self) -> Hashable:
        """What its passes depend on beside x and the target; None where there is more to it, so that none is like another."""
        return None

    def unobserved(self) -> Site:
        """The site for a pass without rules: where nothing has to be seen inside the model, its compiled form will do."""
        return self

    @abstractmethod
    def explaining(self, explained: Score) -> Site:
        """The same place, credited for another score."""

    def rows(self, index: Tensor) -> Site:
        """The same site for those images only: targets belong to images."""
        return self.explaining(self.explained.rows(index))

    @abstractmethod
    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """One pass over these rows, x being theirs: the model's output and the features, with the graph between them."""

    def replayed(self, name: Hashable, ask: Ask, x: Features, rows: Rows, *others: Features) -> Told:
        """`ask(site, x, rows, *others)`, replayed where it has been captured.

        x and the others are those of the rows; `name` says all else that the pass depends on.
        """
        graphs = self.passes.capturing(self.key, x, *others)
        if graphs is None:
            return ask(self, x, rows, *others)

        def one_pass(x: Tensor, *tensors: Tensor) -> Told:
            site = self.explaining(self.explained.having(*tensors[len(others) :]))
            return ask(site, x, slice(0, len(x)), *tensors[: len(others)])

        return graphs.run((name, self.key), one_pass, x, *others, *self.explained.rows(rows).tensors)

    def is_one_image(self, x: Features) -> bool:
        """Whether all rows of x are one image, expanded without memory, and nothing else tells the rows apart.

        Of a single row, too, that is said by its stride: a baseline's score must not depend on how many images there are.
        """
        if not self.is_of_images or self.explained.has_rows_of_arguments:
            return False
        return all(part.stride(0) == 0 for part in parts_of(x))

    def _told(self, verb: Ask, x: Features, rows: Rows) -> Told:
        return self.unobserved().replayed(verb, verb, x, rows)

    def _at(self, x: Features, rows: Rows) -> Point:
        output, features = self.forward(x, rows)
        score = self.explained.rows(rows).of(output)
        with self.passes.backward():
            gradient = gradient_of(score, features)
        return Point(accumulated(score), at_least_float32(features), at_least_float32(gradient))

    def _score(self, x: Features, rows: Rows) -> Tensor:
        return self.explained.rows(rows)(x)

    def _scores_of(self, x: Features, rows: Rows, variants: Sequence[Variant]) -> Iterator[Tensor]:  # noqa: ARG002  # see Input
        for variant in variants:
            yield self._score_of(variant.of(rows), rows)

    def _score_of(self, x: Features, rows: Rows) -> Tensor:
        """X being those of the rows."""
        (score,) = self._told(_scored, x, rows)
        return parts_of(score)[0]


class Input(Site):
    """The images themselves are credited."""

    credits_x = True

    def features(self, x: Features) -> Features:
        """X."""
        return x

    def tail(self, x: Features) -> Input:  # noqa: ARG002  # the same function wherever x is
        """This site: the whole network is behind the input."""
        return self

    @property
    def key(self) -> Hashable:
        """The score's."""
        return self.explained.key and (Input, self.explained.key)

    def unobserved(self) -> Input:
        """By the compiled model."""
        return (
            self if self.passes.compiled is None else self.explaining(self.explained.computed_by(self.passes.compiled))
        )

    def explaining(self, explained: Score) -> Input:
        """The images, credited for another score."""
        return Input(explained, self.passes)

    def forward(self, x: Features, rows: Rows) -> tuple[Any, Features]:
        """The output, and x cut off from whatever made it."""
        leaf = as_leaf(x)
        return self.explained.rows(rows).output(leaf), leaf

    def _scores_of(self, x: Features, rows: Rows, variants: Sequence[Variant]) -> Iterator[Tensor]:
        """Computed only where they differ from x, as far as that pays; verified on the one in the middle."""
        middle = variants[len(variants) // 2]  # of the images, too, where a window slides
        known: Tensor | None = None
        near = self._nearby(x[rows], rows, variants)
        if near is not None:
            shown = middle.of(rows)
            known = self._score_of(shown, rows)
            near = near if near.agrees(shown, middle.box, known) else None
        for variant in variants:
            if variant is middle and known is not None:
                yield known
                continue
            shown = variant.of(rows)
            score = None if near is None else near.score(shown, variant.box)
            yield self._score_of(shown, rows) if score is None else accumulated(score)

    def _nearby(self, x: Features, rows: Rows, variants: Sequence[Variant]) -> Nearby | None:
        # Passes that are captured or compiled are not the model's own code.
        if self.passes.graphs is not None or self.passes.compiled is not None:
            return None
        return Nearby.of(self.explained.rows(rows), x, variants)


Ask = Callable[..., Told]
"""One pass over some rows, as a function of (site, x, rows, other tensors)."""


def _scored(site: Site, x: Features, rows: Rows) -> Told:
    return (accumulated(site._score(x, rows)),)  # noqa: SLF001  # the verbs of one family


def _scored_as_one(site: Site, x: Features, _rows: Rows) -> Told:
    return (accumulated(site.explained.of_one(x)),)


def _sloped(site: Site, x: Features, rows: Rows) -> Told:
    with torch.enable_grad():
        return (site._at(x, rows).gradient,)  # noqa: SLF001  # as above


def _pointed(site: Site, x: Features, rows: Rows) -> Told:
    with torch.enable_grad():
        point = site._at(x, rows)  # noqa: SLF001  # as above
    return point.score.detach(), point.gradient, *site.telling(point.features)
