"""LRP at linear layers: how relevance is shared among the inputs of a weighted sum.

Relevance at a tensor is the tensor times a signal, R = a * g (see `relevance.py`); a rule turns the signal of the outputs
into that of the inputs.

Sources: Bach et al. 2015, doi:10.1371/journal.pone.0130140, eq. 58 and 60; Montavon et al. 2019, "Layer-wise relevance
propagation: an overview", section 10.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Protocol

import torch
from torch import Tensor

from attribution import native
from attribution.blocks import Write, write_into
from attribution.calls import Bound
from attribution.kept import Kept
from attribution.nodes import Operation, Rule
from attribution.propagation import Lending, Watched
from attribution.rules import difference

Weighted = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""A linear layer as a function of (input, weight, bias)."""


class LinearRule(Protocol):
    """What a linear layer does with relevance."""

    def treat(self, lending: Lending, bound: Bound, layer: LinearLayer) -> Tensor:
        """Run the layer so that its backward follows the rule."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A call of a convolution, linear or normalisation layer."""

    function: Weighted
    weight: Tensor | None
    bias: Tensor | None
    shape: tuple[int, ...]
    """The shape in which one number per output channel broadcasts over the output."""


@dataclass(frozen=True, slots=True)
class Epsilon:
    """In proportion to the contributions, damped by eps where they cancel.  Bach et al. eq. 58"""

    eps: float = 1e-9

    def treat(self, lending: Lending, bound: Bound, layer: LinearLayer) -> Tensor:
        """The layer as it is, its signal damped."""
        bias = None if layer.bias is None else layer.bias.reshape(layer.shape)
        return damped(lending, bound(), self.eps, bias)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Contributions of the output's own sign count (1 + gamma) times.  Montavon et al. eq. 10.3

    The paper has inputs and outputs of ReLU networks, which aren't negative; this is the same there, and elsewhere the
    form that never divides by less than the output itself.
    """

    gamma: float = 0.25
    set_bias_to_zero: bool = False

    def treat(self, lending: Lending, bound: Bound, layer: LinearLayer) -> Tensor:
        """Share positive outputs by enlarged positive contributions, negative ones by enlarged negative ones."""
        assert layer.weight is not None
        bias = None if self.set_bias_to_zero else layer.bias
        w, g = layer.weight, self.gamma
        up, down = w + g * w.clamp(min=0), w + g * w.clamp(max=0)
        bias_up, bias_down = (
            (None, None) if bias is None else (bias + g * bias.clamp(min=0), bias + g * bias.clamp(max=0))
        )
        positive, negative = Contributions(up, down, bias_up), Contributions(down, up, bias_down)
        return shared_by(lending, bound, layer, positive, negative)


@dataclass(frozen=True, slots=True)
class Alpha1Beta0:
    """Positive contributions only: of positive inputs by positive weights, of negative by negative.  Bach et al. eq. 60"""

    set_bias_to_zero: bool = False

    def treat(self, lending: Lending, bound: Bound, layer: LinearLayer) -> Tensor:
        """Share by the positive part of every contribution."""
        assert layer.weight is not None
        bias = None if self.set_bias_to_zero or layer.bias is None else layer.bias.clamp(min=0)
        positive = Contributions(layer.weight.clamp(min=0), layer.weight.clamp(max=0), bias)
        return shared_by(lending, bound, layer, positive, positive)


@dataclass(frozen=True, slots=True)
class Identity:
    """Relevance stays where it is, for layers whose input and output have one shape."""

    def treat(self, lending: Lending, bound: Bound, layer: LinearLayer) -> Tensor:  # noqa: ARG002  # one signature for all
        """R of the output is R of the input, place by place."""

        def rule(
            f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]
        ) -> tuple[Tensor]:
            relevance, (x,) = gradient * f(*inputs), inputs
            signal = relevance / stabilised(x, EPSILON)
            lending.absorb("stabiliser", lambda: relevance - signal * x)  # what would lie on an input that is zero
            return (signal,)

        return lending.apply(bound, rule)  # type: ignore[no-any-return]  # a linear layer returns a tensor


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """What a linear layer's output is shared by: the weights of positive and of negative inputs, and the bias."""

    of_positive: Tensor
    of_negative: Tensor
    bias: Tensor | None


EPSILON = 1e-9
"""Keeps a quotient finite where the rule has no parameter for it."""


def stabilised(z: Tensor, eps: float) -> Tensor:
    """Z pushed away from zero by eps, to its own side."""
    return torch.where(z < 0, z - eps, z + eps)


def damped(lending: Lending, z: Tensor, eps: float, constant: Tensor | None = None) -> Tensor:
    """Epsilon's stabiliser on the output z of a linear operation, which added `constant` of its own."""
    damping = Damping(eps=eps, kept=lending.kept.keep(z))
    lending.watched[id(z)] = z, damping

    def rule(gradient: Tensor) -> Tensor:
        if damping.is_inherited:
            return gradient
        z = damping.kept.tensor
        signal = torch.empty_like(z)
        if not native.damp(signal, z, gradient, eps):
            write_into(signal, _damping(eps), z, gradient)
        lending.absorb("stabiliser", lambda: (gradient - signal) * z)
        if constant is not None:
            lending.absorb("bias", lambda: signal * constant)
        return signal

    z.register_hook(rule)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return z


@dataclass(slots=True, eq=False, kw_only=True)
class Damping(Watched):
    """A stabiliser that the call behind it can take into its own step, if that is the only one to read the output."""

    eps: float
    kept: Kept
    has_heir: bool = False

    @property
    def is_inherited(self) -> bool:
        """Known when gradients flow: then the pass is over, and all readers are counted."""
        return self.has_heir and self.readers == 1


def inherited(lending: Lending, z: Tensor, eps: float) -> Damping | None:
    """The same stabiliser on the output z, for the rule of a call that reads it to take over if it can."""
    _, damping = lending.watched.get(id(z), (z, None))
    if not isinstance(damping, Damping) or damping.eps != eps:
        return None
    damping.has_heir = True
    return damping


def damped_scale(eps: float, scale: Tensor, before: Damping | None) -> Rule:
    """The same on a scale of each channel (C,), in one step with the scale's own, for a call whose result the rule is given.

    `before` is the stabiliser on the call's input.
    """

    def rule(_f: Operation, gradient: Tensor, results: Sequence[Tensor], _reference: Sequence[Tensor]) -> tuple[Tensor]:
        (z,) = results
        x = before.kept.tensor if before is not None and before.is_inherited else None
        signal = torch.empty_like(z)
        if not native.damp(signal, z, gradient, eps, scale, x):
            write_into(signal, _damping(eps), z, gradient)
            signal *= scale.reshape(-1, *([1] * (z.dim() - 2)))
            if x is not None:
                write_into(signal, _damping(eps), x, signal)
        return (signal,)

    return rule


def _damping(eps: float) -> Write:
    def write(signal: Tensor, z: Tensor, gradient: Tensor) -> None:
        size = z.abs()
        kept = size / (size + eps)  # z / stabilised(z)
        if not z.is_cpu or isnan(float(kept.sum())):  # looking would hold up another device
            kept = kept.nan_to_num(1)  # masked logits are infinite
        torch.mul(kept, gradient, out=signal)

    return write


def shared_by(
    lending: Lending, bound: Bound, layer: LinearLayer, where_positive: Contributions, where_negative: Contributions
) -> Tensor:
    """Share the relevance of positive outputs by one set of contributions, that of negative ones by another."""

    def rule(f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]) -> tuple[Tensor]:
        (x,), output = inputs, f(*inputs)
        relevance = gradient * output
        if where_positive is where_negative:
            return (shared(x, relevance, where_positive),)
        positive, negative = (relevance.where(is_here, 0) for is_here in (output >= 0, output < 0))
        return (shared(x, positive, where_positive) + shared(x, negative, where_negative),)

    def shared(x: Tensor, relevance: Tensor, by: Contributions) -> Tensor:
        """The signal of each input, for that relevance of the outputs."""
        up, down = x.clamp(min=0), x.clamp(max=0)
        bias = 0 if by.bias is None else by.bias.reshape(layer.shape)
        z = layer.function(up, by.of_positive, None) + layer.function(down, by.of_negative, None) + bias
        signal = relevance / stabilised(z, EPSILON)
        lending.absorb("bias", lambda: signal * bias)
        lending.absorb("stabiliser", lambda: relevance - signal * z)
        (to_up,) = difference.pulled_back(lambda t: layer.function(t, by.of_positive, None), signal, (up,))
        (to_down,) = difference.pulled_back(lambda t: layer.function(t, by.of_negative, None), signal, (down,))
        return torch.where(x >= 0, to_up, to_down)

    return lending.apply(bound, rule)  # type: ignore[no-any-return]  # a linear layer returns a tensor
