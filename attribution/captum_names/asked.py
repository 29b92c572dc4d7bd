"""One call of `attribute` in the engine's words: inputs, what is explained, where credit lands, and how the answer is packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from attribution.baselines import Baselines
from attribution.bundle import Features, parts_of
from attribution.captum_names import forms
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.layers import Layers
from attribution.hooks import Parts, Place
from attribution.layer import Layer
from attribution.passes import Passes
from attribution.score import NeuronScore, Score, refuse_training
from attribution.site import Input, Site
from attribution.through import Through

Where = Literal["input", "layer", "neuron", "through"]
"""Captum's three families, and NeuronConductance, which credits the input for what flows through a neuron."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a Captum-named object and the arguments of one call of its `attribute` ask for."""

    owner: Any
    given: Mapping[str, Any]
    where: Where = "input"
    inputs: forms.Inputs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", forms.read_inputs(self.given["inputs"]))

    @cached_property
    def x(self) -> Features:
        """The inputs as one vector."""
        return self.inputs.x

    @cached_property
    def explained(self) -> Score:
        """The model at the target, or the neuron in its stead."""
        score = explained(
            self.owner.forward_func, self.inputs, self.given.get("target"), self.given.get("additional_forward_args")
        )
        if self.where != "neuron":
            return score
        pick = forms.read_selector(self.given["neuron_selector"])
        return NeuronScore(
            model=score.model,
            arguments=score.arguments,
            dtype=score.dtype,
            place=self._place(self.owner.layer),
            pick=pick,
        )

    @cached_property
    def site(self) -> Site:
        """Where the formula is asked."""
        passes = self.passes
        if self.where == "through":
            pick = forms.read_selector(self.given["neuron_selector"])
            return Through(self.explained, self._place(self.owner.layer), pick, passes)
        if self.where != "layer":
            return Input(self.explained, passes)
        if isinstance(self.owner.layer, list | tuple):
            return Layers(self.explained, [self._place(layer) for layer in self.owner.layer], passes)
        return Layer(self.explained, self._place(self.owner.layer), passes)

    @property
    def passes(self) -> Passes:
        """At most `internal_batch_size` rows a pass; all of them where nothing is said."""
        limit = self.given.get("internal_batch_size")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ArgumentError(f"internal_batch_size={limit!r} is no number of rows")
        return Passes(None if limit is None or limit >= len(self.inputs) else limit)

    def _place(self, layer: Any) -> Place:
        if not isinstance(layer, nn.Module):
            raise ArgumentError(f"the layer is a {type(layer).__name__}, not a module of the model")
        at_input = bool(self.given.get("attribute_to_layer_input") or self.given.get("attribute_to_neuron_input"))
        return Place(layer, at_input, call=-1)  # Captum's hooks keep the last of several calls

    @cached_property
    def baseline(self) -> Features:
        """A reference for each row; in memory of its own where other arguments tell rows apart."""
        baseline = forms.read_baseline(self.given.get("baselines"), self.inputs)
        return baseline if self.given.get("additional_forward_args") is None else baseline.contiguous()

    def needs(self, wanted: frozenset[str]) -> dict[str, Any]:
        """What a formula asks for, by name."""
        makers: dict[str, Callable[[], Any]] = {
            "baseline": lambda: self.baseline,
            "baselines": lambda: Baselines((self.baseline,)),
            "draws": lambda: forms.read_draws(self.given.get("seed"), len(self.inputs)),
        }
        return {name: makers[name]() for name in wanted if name in makers}

    def packed(self, features: Features) -> Any:
        """A result as Captum packs it: like the inputs; or, at layers, a tuple only for layers of several tensors."""
        if self.where != "layer":
            return self.inputs.as_given(features)
        parts = parts_of(features)
        if isinstance(self.site, Layers):
            return [_alone(group) for group in self.site.grouped(self.x, parts)]
        return _alone(parts)

    def delta(self, features: Features) -> Tensor:
        """How far the attributions of a row are from the difference they explain.  -> (N,)"""
        ends = Input(self.explained, self.passes)
        return forms.row_sums(parts_of(features)) - (ends.score(self.x) - ends.score(self.baseline))


def _alone(parts: Parts) -> forms.Tensors:
    return parts[0] if len(parts) == 1 else parts


def explained(forward: Callable[..., Any], inputs: forms.Inputs, target: Any, arguments: Any) -> Score:
    """The model at its target. Tensors that have a row for each input are cut with the inputs, all else stays whole."""
    if not callable(forward):
        raise ArgumentError(f"the model is a {type(forward).__name__}; give a module or a function")
    refuse_training(forward)
    count = len(inputs)
    chosen = forms.read_target(target, count, inputs.parts[0].device)
    given = forms.read_arguments(arguments)
    by_row = [isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == count for argument in given]
    score = Score(model=forward, target=chosen, arguments=given, dtype=inputs.half)
    if all(own or not isinstance(argument, Tensor) for own, argument in zip(by_row, given, strict=True)):
        return score
    first = len(inputs.parts)

    def with_whole(*values: Any) -> Any:
        own = iter(values[first:])
        return forward(
            *values[:first], *(next(own) if cut else argument for cut, argument in zip(by_row, given, strict=True))
        )

    cut = tuple(argument for argument, own in zip(given, by_row, strict=True) if own)
    return replace(score, model=with_whole, arguments=cut)
