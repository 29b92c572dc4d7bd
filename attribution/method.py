"""Method: an attribution method as a frozen value, and METHODS, the one table of all of them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from attribution.bundle import Features, expanded
from attribution.errors import AttributionError
from attribution.expression import defaults, snake_case
from attribution.hooks import Place
from attribution.layer import Layer
from attribution.passes import Passes
from attribution.score import NeuronScore, Score
from attribution.site import Input, Site

METHODS: dict[str, type[Method]] = {}
"""Every method by its one name; command line, storage keys, docs and tests derive from this table."""

SHORT_NAMES: dict[str, str] = {}
"""The usual short forms, e.g. `ig` for integrated_gradients."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method's definition needs for one image, in passes of the model."""

    forward: float = 0
    forward_backward: float = 0


@dataclass(frozen=True, slots=True, eq=False)
class Attributed:
    """What a method tells of N images: the attribution, and what else its passes have shown."""

    features: Features
    steps: Tensor | None = None
    """(N,) the gradients it took for each image, where it decides that itself."""
    difference: Tensor | None = None
    """(N,) what the attributions add up to where the method is complete, if its own passes have shown that."""
    logits: Tensor | None = None
    """(N, classes) where the target was chosen from them."""

    def rows(self, index: Tensor) -> Attributed:
        """The same of those images only."""
        cut = (None if told is None else told[index] for told in (self.steps, self.difference, self.logits))
        return Attributed(self.features[index], *cut)


@dataclass(frozen=True)
class Method(ABC):
    """A formula over a Site. Fields are its parameters; the arguments of `attribute` after (site, x) are its needs.

    Needs are known by name: `baseline` (one reference, like x), `baselines` (several, to draw from), `draws` (random
    numbers by identity), `mask` (the number of each feature's region), `layer` (a Site at the layer named by `at`, where
    the image is credited). A subclass enters METHODS under its name in snake case.
    """

    paper: ClassVar[str]
    """Where the formula comes from: authors, year, arXiv number, equation."""
    axioms: ClassVar[frozenset[str]] = frozenset()
    """What is true of it, as tests/attribution/test_axioms.py checks."""
    places: ClassVar[frozenset[str]] = frozenset({"input", "layer", "neuron"})
    """Where it can be asked: of the input, of a layer, of the input for a neuron, or `through` a neuron for the score."""
    short: ClassVar[tuple[str, ...]] = ()
    reads_pass: ClassVar[bool] = False
    """Only features and gradient at x itself are needed, so that several methods share one pass."""
    predicts: ClassVar[bool] = False
    """Its one forward pass over the images tells the logits that a target is chosen from, so that none is needed before."""
    walks: ClassVar[bool] = False
    """It asks `site.tail(x)`: at a layer, the pass that records what comes before it tells the logits too."""
    folds: ClassVar[bool] = True
    """Whether a convolution and the BatchNorm behind it may be written as one: not where linear operations have rules."""
    default_baseline: ClassVar[str | None] = None
    slopes: ClassVar[bool] = False
    """The map holds slopes of the score, not shares of it."""
    captum: ClassVar[tuple[str, ...]] = ()
    """The names that Captum gives to this method at the input, at a layer and for a neuron."""

    def __init_subclass__(cls, *, listed: bool = True, **kwargs: Any) -> None:
        """Enter the class in METHODS, unless it only stands around other methods."""
        super().__init_subclass__(**kwargs)
        if listed:
            METHODS[cls.method_name()] = cls
            SHORT_NAMES.update(dict.fromkeys(cls.short, cls.method_name()))

    def __post_init__(self) -> None:
        """Refuse counts below one; subclasses check the rest."""
        for name in self.parameters():
            if name.startswith("n_") and getattr(self, name) < 1:
                raise AttributionError(f"{self.method_name()}({name}={getattr(self, name)}): at least 1 is needed")

    @abstractmethod
    def attribute(self, site: Site, x: Features, *args: Any, **needs: Any) -> Features:
        """The attribution of every image.  x (N, ...) -> (N, *features)"""

    def attributed(self, site: Site, x: Features, *args: Any, **needs: Any) -> Attributed:
        """The attribution, with what else the method has to tell about it."""
        return Attributed(self.attribute(site, x, *args, **needs))

    def explained_difference(self, site: Site, x: Features, *args: Any, **needs: Any) -> Tensor | None:  # noqa: ARG002  # lets overrides name their needs
        """What the attributions of an image add up to where the method is complete; None where nothing is promised.  (N,)"""
        if "completeness" not in self.axioms or not self.holds_shares:
            return None
        return site.score(x) - site.score(expanded(needs["baseline"], x))

    @property
    def holds_shares(self) -> bool:
        """Whether the map shares out the score, or its difference to the baseline's, among the features."""
        return not self.slopes and getattr(self, "multiply_by_inputs", True)

    def shares(self, attribution: Features, *args: Any, **needs: Any) -> Features:  # noqa: ARG002  # lets overrides name their needs
        """The map such that features share out the score, where it holds shares but spells them out otherwise."""
        return attribution

    def site(self, explained: Score, at: Place | None, of: NeuronScore | None, passes: Passes) -> Site:
        """Where the formula is asked: at the input or a layer, about the score or about a neuron instead of it."""
        asked = explained if of is None else of
        return Input(asked, passes) if at is None else Layer(asked, at, passes)

    def map_shape(self, features: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one image's attribution, from the shape of what is credited."""
        return features

    def cost(self, image_shape: tuple[int, ...]) -> Cost:  # noqa: ARG002  # perturbation methods depend on it
        """What one image costs, for planning."""
        return Cost(forward_backward=1)

    @classmethod
    def method_name(cls) -> str:
        """The one spelling: snake case of the class's name."""
        return snake_case(cls.__name__)

    @classmethod
    def help(cls) -> str:
        """The docstring's first line."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    @cache
    def needs(cls) -> frozenset[str]:
        """The names of what `attribute` needs besides site and x."""
        return frozenset(list(inspect.signature(cls.attribute).parameters)[3:])

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """Each parameter with its default."""
        return defaults(cls)
