"""LRP: relevance goes back from the score, each operation's output sharing it among inputs by what they contributed.

Relevance at a tensor is written as the tensor times a signal, R = a * g, so that the rules change gradients and R is
"input times gradient" in the end. Plain gradients of linear operations are the rule without a stabiliser.

What operations add of their own (biases, constants, a nonlinearity's value at zero) takes relevance with it; it is
summed by reason, so that score = sum of the relevances + what was absorbed.

Sources: linear layers in `linear.py`; normalisation: Ali et al. 2022, arXiv:2202.07304, sec. 3.3; attention: Achtibat et al.
2024, arXiv:2402.05602, sec. 3.3; gates: Arras et al. 2017, arXiv:1706.07206, sec. 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from attribution.calls import Bound
from attribution.nodes import Operation
from attribution.propagation import Lending, Rules, Treatment
from attribution.rules import difference, rewrites
from attribution.rules.linear import EPSILON, Epsilon, LinearLayer, LinearRule, damped, damped_scale, inherited
from attribution.rules.operations import CONVOLUTIONS, ELEMENTWISE, MEANS, PRODUCTS, SOFTMAXES, SUMS
from attribution.rules.rescale import (
    Normalisation,
    carries,
    group_norm,
    instance_norm,
    layer_norm,
    rescale_rule,
    rms_norm,
    softmax_rule,
)


def nonlinearity(lending: Lending, bound: Bound) -> Any:
    """A function of one number passes on what it adds to its value at zero; that value is a bias.

    Where it has no value at zero (log, reciprocal), its tangent passes on and the rest is a bias.
    """
    if len(bound.credited) != 1:
        return bound()  # maximum and minimum of two: the winner's; others are reported by the audit
    has_value_at_zero = bool(_at_zero(bound).isfinite().all())
    along = rescale_rule(bound)

    def rule(f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        if has_value_at_zero:
            zero = x.new_zeros((1,) * x.dim() if bound.is_of_one_tensor else (1, *x.shape[1:]))
            (signal,) = along(f, gradient, inputs, [zero])
            lending.absorb("nonlinearity", lambda: gradient * f(zero))
        else:
            slope = difference.derivative(f, x)
            signal = gradient * slope
            lending.absorb("nonlinearity", lambda: gradient * (f(x) - x * slope))
        return (signal,)

    return lending.apply(bound, rule)


def _at_zero(bound: Bound) -> Tensor:
    """The operation's value at zero; on the CPU where that is possible, so that no device is waited for."""
    (x,) = bound.credited
    return bound(torch.zeros((), dtype=x.dtype) if bound.is_of_one_tensor else torch.zeros_like(x[:1]))  # type: ignore[no-any-return]  # a function of one number


def softmaxes(lending: Lending, bound: Bound) -> Any:
    """softmax, log_softmax and logsumexp pass on what they add to their value at equal logits; that value is a bias."""
    along = softmax_rule(bound)

    def rule(
        f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        equal = torch.where(inputs[0].isneginf(), -torch.inf, torch.zeros_like(inputs[0]))  # masked stays masked
        lending.absorb("nonlinearity", lambda: gradient * f(equal))
        return along(f, gradient, inputs, [equal])

    return lending.apply(bound, rule)


def normalisations(parse: Callable[[Bound], Normalisation | None], bias_position: int) -> Treatment:
    """The deviation from the mean, by a scale that counts as constant.  Ali et al. eq. 9"""

    def treatment(lending: Lending, bound: Bound) -> Any:
        normalisation = parse(bound)
        if normalisation is None or len(bound.credited) != 1:
            return bound()
        view, dims, eps, centred, weight = normalisation
        propagate = difference.constantly_scaled(view, dims, eps, centred)
        bias = bound.argument(bias_position, "bias") if bias_position else None

        def rule(
            _f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]
        ) -> tuple[Tensor]:
            if bias is not None:
                shift = bias if weight is None else bias.reshape(weight.shape)
                lending.absorb("bias", lambda: gradient * shift)
            return (propagate(gradient if weight is None else gradient * weight, inputs[0]),)

        return lending.apply(bound, rule)

    return treatment


def quotients(lending: Lending, bound: Bound) -> Any:
    """A divisor is a scale and counts as constant."""
    if not carries(bound, 0):
        return nonlinearity(lending, bound)
    if len(bound.credited) == 2:
        return lending.rewrite(torch.div, bound.args[0], bound.args[1].detach(), *bound.args[2:], **bound.kwargs)
    return bound()


def sums(eps: float) -> Treatment:
    """Additions, of activations or of constants, which take their share."""

    def treatment(lending: Lending, bound: Bound) -> Any:
        z = bound()
        is_pure = all(bound.is_credited) and not any(type(a) in (int, float) for a in bound.args[:2])
        constant = None if is_pure else bound(*(torch.zeros_like(t) for t in bound.credited)).detach()
        return damped(lending, z, eps, constant)

    return treatment


def means(eps: float) -> Treatment:
    """Many activations added into one."""
    return lambda lending, bound: damped(lending, bound(), eps)


def products(eps: float) -> Treatment:
    """A product of two activations halves its relevance between them, a gate takes none; by a constant it is linear.

    Halves: Achtibat et al. eq. 14. Gates: Arras et al. eq. 8; else the constant part of each gate, sigmoid(0), would
    absorb half of the relevance at every squeeze-and-excite block.
    """

    def halved(
        f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return difference.pulled_back(f, gradient / 2, inputs)

    def treatment(lending: Lending, bound: Bound) -> Any:
        factors = bound.credited
        if bound.name == "mul" and len(factors) == 2 and is_gate(factors[0]) != is_gate(factors[1]):
            return bound(*(factor.detach() if is_gate(factor) else factor for factor in factors))
        z = lending.apply(bound, halved) if len(factors) == 2 else bound()
        return z if bound.name == "mul" else damped(lending, z, eps)

    return treatment


def is_gate(factor: Tensor) -> bool:
    """Whether this was made by a function onto (0, 1), possibly reshaped since."""
    node: Any = factor.grad_fn
    while node is not None and node.name().startswith(("View", "Expand", "Unsqueeze", "Squeeze", "Alias")):
        node = node.next_functions[0][0]
    return getattr(getattr(node, "call", None), "name", "") in ("sigmoid", "hardsigmoid", "softmax")


def linear_layers(rule: LinearRule, eps: float, by_weight: Mapping[int, LinearRule]) -> Treatment:
    """Convolutions and linear layers: the rule of the weight's own module, or the one for all."""
    as_product = products(eps)

    def treatment(lending: Lending, bound: Bound) -> Any:
        weight, bias = bound.argument(1, "weight"), bound.argument(2, "bias")
        if len(bound.credited) > 1 or bound.credited[0] is weight:
            return as_product(lending, bound)
        rest, named = bound.args[3:], {k: v for k, v in bound.kwargs.items() if k not in ("input", "weight", "bias")}
        places = int(bound.name[-2]) if bound.name in CONVOLUTIONS else 0
        layer = LinearLayer(
            lambda x, w, b: bound.function(x, w, b, *rest, **named),
            weight.detach(),
            None if bias is None else bias.detach(),
            (-1, *([1] * places)),
        )
        return by_weight.get(id(weight), rule).treat(lending, bound, layer)

    return treatment


def batch_norms(eps: float, by_weight: Mapping[int, LinearRule]) -> Treatment:
    """A scale and a shift per channel; with one input for each output there is nothing for gamma or alpha to weigh."""

    def treatment(lending: Lending, bound: Bound) -> Any:
        x, weight, bias, mean, variance, training, _, epsilon = bound.args[:8]
        if training or len(bound.credited) != 1:
            return bound()
        scale = (variance + epsilon).rsqrt() * (1 if weight is None else weight.detach())
        rule = by_weight.get(id(weight), Epsilon(eps))
        if isinstance(rule, Epsilon) and not lending.counts:
            before = inherited(lending, x, rule.eps)
            return lending.apply_to_result(bound, damped_scale(rule.eps, scale, before))
        shape = (-1, *([1] * (x.dim() - 2)))
        shift = -mean * scale + (0 if bias is None else bias.detach())
        layer = LinearLayer(
            lambda x, w, b: x * cast("Tensor", w).reshape(shape) + (0 if b is None else b.reshape(shape)),
            scale,
            shift,
            shape,
        )
        return rule.treat(lending, bound, layer)

    return treatment


def relevance(rule: LinearRule, by_weight: Mapping[int, LinearRule] | None = None) -> Rules:
    """LRP with `rule` for convolutions and linear layers, or by id(module.weight) the rule of that module."""
    by_weight = by_weight or {}
    eps = rule.eps if isinstance(rule, Epsilon) else EPSILON
    return Rules(
        name="lrp",
        treatments={
            **dict.fromkeys(ELEMENTWISE, nonlinearity),
            **dict.fromkeys(PRODUCTS, products(eps)),
            **dict.fromkeys([*CONVOLUTIONS, "linear"], linear_layers(rule, eps, by_weight)),
            **dict.fromkeys(SUMS, sums(eps)),
            **dict.fromkeys(MEANS, means(eps)),
            **{
                name: treatment for name, treatment in rewrites.TREATMENTS.items() if name not in ("max", "min", "amin")
            },
            "batch_norm": batch_norms(eps, by_weight),
            "div": quotients,
            **dict.fromkeys(SOFTMAXES, softmaxes),
            "layer_norm": normalisations(layer_norm, 3),
            "group_norm": normalisations(group_norm, 3),
            "instance_norm": normalisations(instance_norm, 2),
            "rms_norm": normalisations(rms_norm, 0),
        },
        by_gradient=WINNERS,
    )


WINNERS = frozenset(
    [
        "Pooled",  # of attribution/pooling.py
        "MaxPool2DWithIndices",
        "MaxPool3DWithIndices",
        "AdaptiveMaxPool2D",
        "AdaptiveMaxPool3D",
        "Amax",
        "Amin",
        "Max",
        "Min",
        "Maximum",
        "Minimum",
    ]
)
"""Maxima: all relevance to the winner, which is their plain gradient."""
