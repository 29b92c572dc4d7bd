"""RESCALE: DeepLIFT's rule for each operation."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attribution.calls import Bound
from attribution.nodes import Rule
from attribution.propagation import Lending, Rules, Treatment
from attribution.rules import difference, rewrites
from attribution.rules.operations import (
    CLAMPS,
    ELEMENTWISE,
    MAX_POOLS,
    PIECEWISE_LINEAR,
    PRODUCTS,
    SELECTIONS,
    SOFTMAXES,
)


def elementwise(lending: Lending, bound: Bound) -> Any:
    """A function of one number; of two where both carry credit there is no one quotient."""
    if len(bound.credited) == 1:
        return lending.apply(bound, rescale_rule(bound))
    if bound.name in ("maximum", "minimum"):
        return lending.rewrite(rewrites.larger if bound.name == "maximum" else rewrites.smaller, *bound.args)
    lending.report(f"{bound.name} of two activations")
    return bound()


def rescale_rule(bound: Bound) -> Rule:
    """The rescale rule in as few steps as the operation allows."""
    if bound.name in CLAMPS and bound.is_of_one_tensor:
        return difference.rescale_clamp(*CLAMPS[bound.name](bound))
    return difference.rescale_pieces if bound.name in PIECEWISE_LINEAR else difference.rescale


def products(lending: Lending, bound: Bound) -> Any:
    """A product of two activations; with one factor constant it is linear."""
    factors = bound.credited
    if len(factors) == 1:
        lending.expect_equal(bound)
        return bound()
    if len(factors) > 2:
        lending.report(f"{bound.name} of {len(factors)} activations")
        return bound()
    return lending.apply(bound, difference.product if bound.name == "mul" else difference.bilinear)


def quotients(lending: Lending, bound: Bound) -> Any:
    """An activation by another, or by a constant (linear), or a constant by one (a function of one number)."""
    if len(bound.credited) == 2:
        return lending.apply(bound, difference.quotient)
    if carries(bound, 0):
        lending.expect_equal(bound)
        return bound()
    return lending.apply(bound, difference.rescale)


def selections(lending: Lending, bound: Bound) -> Any:
    """Linear while both passes select alike."""
    lending.expect_equal(bound)
    return bound()


def softmaxes(lending: Lending, bound: Bound) -> Any:
    """softmax, log_softmax and logsumexp."""
    return lending.apply(bound, softmax_rule(bound))


def softmax_rule(bound: Bound) -> Rule:
    """The rule along the call's dimension."""
    dim = bound.argument(1, "dim")
    if bound.name == "logsumexp":
        return difference.logsumexp(dim, keepdim=bound.argument(2, "keepdim", default=False))
    return difference.softmax(dim) if bound.name == "softmax" else difference.log_softmax(dim)


def normalisations(parse: Callable[[Bound], Normalisation | None]) -> Treatment:
    """A normalisation by its own statistics, then the constant scale and shift that follow it."""

    def treatment(lending: Lending, bound: Bound) -> Any:
        normalisation = parse(bound)
        if normalisation is None:
            return bound()
        if len(bound.credited) > 1:
            lending.report(f"{bound.name} with a scale that depends on the image")
            return bound()
        view, dims, eps, centred, weight = normalisation
        rule = difference.normalised(view, dims, eps, centred)
        return lending.apply(bound, lambda _f, g, x, r: (rule(g if weight is None else g * weight, x[0], r[0]),))

    return treatment


Normalisation = tuple[Callable[[Tensor], Tensor], tuple[int, ...], float, bool, Tensor | None]
"""(the view to normalise, over these dimensions, eps, whether centred, the scale after it)."""


def layer_norm(bound: Bound) -> Normalisation:
    """Over the trailing dimensions.  (input, normalized_shape, weight, bias, eps)"""
    dims = tuple(range(-len(bound.argument(1, "normalized_shape")), 0))
    return _same, dims, bound.argument(4, "eps", 1e-5), True, constant_weight(bound.argument(2, "weight"))


def rms_norm(bound: Bound) -> Normalisation:
    """The same without taking the mean off.  (input, normalized_shape, weight, eps)"""
    dims = tuple(range(-len(bound.argument(1, "normalized_shape")), 0))
    eps = bound.argument(3, "eps")
    eps = torch.finfo(bound.credited[0].dtype).eps if eps is None else eps
    return _same, dims, eps, False, constant_weight(bound.argument(2, "weight"))


def group_norm(bound: Bound) -> Normalisation:
    """Over groups of channels.  (input, num_groups, weight, bias, eps)"""
    groups, rank = bound.argument(1, "num_groups"), bound.credited[0].dim()
    weight = constant_weight(bound.argument(2, "weight"), rank - 2)
    dims = tuple(range(-(rank - 1), 0))
    return lambda t: t.unflatten(1, (groups, -1)), dims, bound.argument(4, "eps", 1e-5), True, weight


def instance_norm(bound: Bound) -> Normalisation | None:
    """Over each channel, or linear.  (input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)"""
    if not bound.argument(5, "use_input_stats"):
        return None
    rank = bound.credited[0].dim()
    weight = constant_weight(bound.argument(1, "weight"), rank - 2)
    return _same, tuple(range(-(rank - 2), 0)), bound.argument(7, "eps"), True, weight


def max_pools(lending: Lending, bound: Bound) -> Any:
    """All max-pools: 1-d to 3-d, adaptive or not, with or without indices."""
    (x,), pool = bound.credited, getattr(functional, bound.name)
    settings = {key: value for key, value in bound.kwargs.items() if key != "input"}
    values, places = pool(x.detach(), *bound.args[1:], **{**settings, "return_indices": True})
    # Of the compiled functions, adaptive ones always give indices and others by their name; the Python ones when asked.
    is_compiled, spelling = not isinstance(bound.function, FunctionType), bound.function.__name__.partition(".")[0]
    in_pairs = is_compiled and (spelling.startswith("adaptive") or spelling.endswith("indices"))
    rule = difference.winner(int(bound.name[-2]), pool_spread(bound) if bound.name == "max_pool2d" else None)
    output = known(lending, bound, values, rule, places)
    return (output, places) if bound.kwargs.get("return_indices", in_pairs) else output


def largest(lending: Lending, bound: Bound) -> Any:
    """Amax along the last dimension, kept; others are written as it."""
    if bound.argument(1, "dim", ()) != -1 or not bound.argument(2, "keepdim", False):
        return lending.rewrite(rewrites.largest, *bound.args, **bound.kwargs)
    values, places = bound.credited[0].detach().max(-1, keepdim=True)
    return known(lending, bound, values, difference.winner(1), places)


def known(lending: Lending, bound: Bound, values: Tensor, rule: Rule, places: Tensor) -> Tensor:
    """A maximum of which the values and the places are computed already."""
    bound.function = lambda *_args, **_kwargs: values
    return lending.apply(bound, rule, values, places)  # type: ignore[no-any-return]  # a tensor


def pool_spread(bound: Bound) -> difference.Spread:
    """As the pool's own gradient adds up, which knows which windows have a place.  max_pool2d(x, kernel, stride, padding, dilation, ceil)"""
    names, default = ("kernel_size", "stride", "padding", "dilation"), (None, None, 0, 1)
    settings = [bound.argument(i + 1, name, default[i]) for i, name in enumerate(names)]
    kernel, stride, padding, dilation = ([] if s is None else [s] if isinstance(s, int) else list(s) for s in settings)
    ceil = bool(bound.argument(5, "ceil_mode", default=False))

    def spread(signal: Tensor, places: Tensor, x: Tensor) -> Tensor:
        pooled = torch.ops.aten.max_pool2d_with_indices_backward
        credit: Tensor = pooled(signal, x, kernel, stride, padding, dilation, ceil, places)
        return credit

    return spread


def carries(bound: Bound, position: int) -> bool:
    """Whether that argument is one of the tensors that carry credit."""
    return any(bound.args[position] is tensor for tensor in bound.credited)


def constant_weight(weight: Tensor | None, trailing: int = 0) -> Tensor | None:
    """A scale that follows a normalisation, shaped to its channels."""
    return None if weight is None else weight.detach().reshape(*weight.shape, *([1] * trailing))


def _same(t: Tensor) -> Tensor:
    return t


RESCALE = Rules(
    name="deep_lift",
    treatments={
        **dict.fromkeys(ELEMENTWISE, elementwise),
        **dict.fromkeys(PRODUCTS, products),
        **dict.fromkeys(SELECTIONS, selections),
        **dict.fromkeys(MAX_POOLS, max_pools),
        **rewrites.TREATMENTS,
        "div": quotients,
        **dict.fromkeys(SOFTMAXES, softmaxes),
        "layer_norm": normalisations(layer_norm),
        "rms_norm": normalisations(rms_norm),
        "group_norm": normalisations(group_norm),
        "instance_norm": normalisations(instance_norm),
        "amax": largest,
    },
)
