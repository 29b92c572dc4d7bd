"""DeepLIFT's rules: multipliers by which an operation's change against the reference is exactly shared among its inputs.

Each rule is given inputs x and the reference's inputs r, and satisfies sum(multiplier * (x - r)) = f(x) - f(r).
Sources: Shrikumar et al. 2017, arXiv:1704.02685, section 3 (rescale); the others follow from writing the operation as
products and functions of one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan

import torch
from torch import Tensor

from attribution import native
from attribution.blocks import Write, write_into
from attribution.nodes import Operation, Rule

TINY = 32
"""Distances below this many units in the last place are rounding: there the derivative stands for the quotient."""


def rescale(f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor]:
    """A function of one number: (f(x) - f(r)) / (x - r), its derivative where the two are the same."""
    (x,), (r,) = inputs, reference
    least = TINY * torch.finfo(x.dtype).eps

    def write(credit: Tensor, x: Tensor, r: Tensor, gradient: Tensor) -> None:
        distance, slope = wide(x) - wide(r), wide(f(x)) - wide(f(r))
        slope /= distance
        excess = distance.abs_().sub_(wide(x).abs(), alpha=least)
        if not x.is_cpu or float(excess.amin()) <= 0:  # looking would hold up another device
            slope = torch.where(excess <= 0, derivative(f, x), slope)
        torch.mul(slope, gradient, out=credit)

    return (by_place(f, write, x, r, gradient),)


def rescale_pieces(
    f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]
) -> tuple[Tensor]:
    """The same for functions made of straight lines, whose quotient has no rounding to hide: fewer steps."""
    (x,), (r,) = inputs, reference

    def write(credit: Tensor, x: Tensor, r: Tensor, gradient: Tensor) -> None:
        distance, slope = wide(x) - wide(r), wide(f(x)) - wide(f(r))
        slope /= distance
        if not x.is_cpu or isnan(float(slope.sum())):  # 0 / 0, and a sum is the quickest look
            slope = torch.where(distance == 0, derivative(f, x), slope)
        torch.mul(slope, gradient, out=credit)

    return (by_place(f, write, x, r, gradient),)


def rescale_clamp(low: float, high: float) -> Rule:
    """The same for ReLU, ReLU6 and hardtanh, where many inputs equal the reference's (padding, channels that rest)."""

    def slopes(r: Tensor) -> Tensor:
        return ((r > low) & (r < high)).to(r.dtype)

    def write(credit: Tensor, x: Tensor, gradient: Tensor, r: Tensor, *known: Tensor) -> None:
        x, r = wide(x), wide(r)
        at_r, slope_at_r = known or (r.clamp(low, high), slopes(r))
        slope = (x.clamp(low, high) - at_r).div_(x - r)
        torch.mul(torch.where(x == r, slope_at_r, slope), gradient, out=credit)

    def rule(f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor]:
        (x,), (r,) = inputs, reference
        credit = room_for(f, x)
        if not native.rescale(credit, x, gradient, r, (low, high)):
            is_shared = len(r) < len(x)  # then it is small, and what is made of it is computed once for all rows
            known = (wide(r).clamp(low, high), slopes(wide(r))) if is_shared else ()
            write_into(credit, write, x, gradient, r, *known)
        return (credit,)

    return rule


def by_place(f: Operation, write: Write, x: Tensor, *others: Tensor) -> Tensor:
    """What `write(output, x, *others)` makes place by place; at once where f has tensors of its own that belong to places."""
    output = room_for(f, x)
    if getattr(f, "is_of_one_tensor", False):
        write_into(output, write, x, *others)
    else:
        write(output, x, *others)
    return output


def room_for(f: Operation, x: Tensor) -> Tensor:
    """Where the input's credit goes: over the input itself if nobody reads that again."""
    return x if getattr(f, "gives_inputs", False) else torch.empty_like(x)


def product(
    _f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Every factor by the other's mean, as ab - a'b' = (b + b')/2 (a - a') + (a + a')/2 (b - b')."""
    a_mean, b_mean = ((x + r) / 2 for x, r in zip(inputs, reference, strict=True))
    return gradient * b_mean, gradient * a_mean


def bilinear(
    f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The same for any operation that is linear in each of two: matmul, einsum, a convolution by a computed kernel."""
    (a, b), (a_mean, b_mean) = inputs, ((x + r) / 2 for x, r in zip(inputs, reference, strict=True))
    (to_a,) = pulled_back(lambda t: f(t, b_mean), gradient, (a,))
    (to_b,) = pulled_back(lambda t: f(a_mean, t), gradient, (b,))
    return to_a, to_b


def quotient(
    _f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """a/b - a'/b' = (a-a')/b + a' (1/b - 1/b'). One-sided: a reference's divisor may be almost zero, where halves would cancel."""
    (_, b), (a_reference, b_reference) = inputs, reference
    return gradient / b, -gradient * a_reference / b_reference / b


def softmax(dim: int) -> Callable[..., tuple[Tensor]]:
    """exp(log p), and log p against the sum: every step is a function of one number or linear."""

    def rule(_f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor]:
        mean = _mean_probability(inputs[0], reference[0], dim)
        to_log = gradient * mean
        return (to_log - mean / mean.sum(dim, keepdim=True) * to_log.sum(dim, keepdim=True),)

    return rule


def log_softmax(dim: int) -> Callable[..., tuple[Tensor]]:
    """Log p_i = s_i - log sum exp(s)."""

    def rule(_f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor]:
        mean = _mean_probability(inputs[0], reference[0], dim)
        return (gradient - mean / mean.sum(dim, keepdim=True) * gradient.sum(dim, keepdim=True),)

    return rule


def logsumexp(dim: int | Sequence[int], keepdim: bool) -> Callable[..., tuple[Tensor]]:
    """The shares of log sum exp: what the softmax's logarithms subtract."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)

    def rule(_f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor]:
        mean = _mean_probability(inputs[0], reference[0], dims)
        return (gradient_over(gradient, dims, inputs[0].dim(), keepdim) * mean / mean.sum(dims, keepdim=True),)

    return rule


def _mean_probability(s: Tensor, r: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The logarithmic mean (p - p') / (log p - log p') of both softmaxes.

    As sum mean (log p - log p') = sum (p - p') = 0, shares proportional to it explain log sum exp exactly, and the
    result does not change when logits are shifted, so neither pass's exponentials can overflow.
    """
    log_p, log_q = (
        wide(s) - torch.logsumexp(wide(s), dim, keepdim=True),
        wide(r) - torch.logsumexp(wide(r), dim, keepdim=True),
    )
    distance = torch.where(log_p == log_q, 0, (log_p - log_q).abs())  # equal also where a mask made both -inf
    ratio = torch.where(
        distance == 0, 1, -torch.expm1(-distance) / distance.clamp(min=torch.finfo(distance.dtype).tiny)
    )
    return torch.maximum(log_p, log_q).exp() * ratio


def normalised(
    view: Callable[[Tensor], Tensor], dims: tuple[int, ...], eps: float, centred: bool
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(gradient, x, r) -> gradient, for c / sqrt(mean(c^2) + eps) with c = x - mean(x), or c = x where it isn't centred.

    One-sided: the multiplier of c is the scale at x, that of the scale is c at the reference. With the halves of the
    symmetric product a constant reference, whose scale is 1/sqrt(eps), would leave a difference of huge numbers.
    """

    def rule(gradient: Tensor, x: Tensor, r: Tensor) -> Tensor:
        g, c, k = view(wide(gradient)), _centred(view(wide(x)), dims, centred), _centred(view(wide(r)), dims, centred)
        scale, scale_r = ((t.square().mean(dims, keepdim=True) + eps).rsqrt() for t in (c, k))
        # scale - scale_r = -(mean c^2 - mean k^2) scale^2 scale_r^2 / (scale + scale_r), and c^2 - k^2 = (c + k)(c - k)
        to_square = -((scale * scale_r).square() / (scale + scale_r)) * (g * k).sum(dims, keepdim=True)
        count = c[(0,) * (c.dim() - len(dims))].numel()
        to_c = g * scale + to_square * (c + k) / count
        return _centred(to_c, dims, centred).reshape(gradient.shape)

    return rule


def constantly_scaled(
    view: Callable[[Tensor], Tensor], dims: tuple[int, ...], eps: float, centred: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """(gradient, x) -> gradient of the same, its scale taken as a constant."""

    def rule(gradient: Tensor, x: Tensor) -> Tensor:
        scale = (_centred(view(wide(x)), dims, centred).square().mean(dims, keepdim=True) + eps).rsqrt()
        return _centred(view(wide(gradient)) * scale, dims, centred).reshape(gradient.shape)

    return rule


def _centred(t: Tensor, dims: tuple[int, ...], centred: bool) -> Tensor:
    return t - t.mean(dims, keepdim=True) if centred else t


Spread = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(signal of the maxima, their places, x) -> credit of x: each maximum's signal added up at its place."""


def winner(flat_dims: int, spread: Spread | None = None) -> Callable[..., tuple[Tensor]]:
    """A maximum over windows that may overlap: y - y' goes to the place that won in the pass whose maximum is larger.

    There x - r is at least as large as y - y', so that the multiplier lies between 0 and 1. Inputs are x, its maxima and
    their places in the last `flat_dims` dimensions of x.
    """

    def rule(_f: Operation, gradient: Tensor, inputs: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor]:
        x, y, place = (t.flatten(-flat_dims) for t in inputs)
        r, y_r, place_r = (t.expand_as(like).flatten(-flat_dims) for t, like in zip(reference, inputs, strict=True))
        place = torch.where(y >= y_r, place, place_r)
        distance = x.gather(-1, place) - r.gather(-1, place)
        share = torch.where(distance == 0, 1, (y - y_r) / distance)
        signal = gradient.flatten(-flat_dims) * share
        if spread is None or x.is_cpu:
            return (torch.zeros_like(x).scatter_add_(-1, place, signal).reshape(inputs[0].shape),)
        # With its algorithms fixed a GPU would sort the places to add at them.
        return (spread(signal.view_as(inputs[1]), place.view_as(inputs[2]), inputs[0]),)

    return rule


def derivative(f: Operation, x: Tensor) -> Tensor:
    """F' of a function of one number; 0 where it has none."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = f(leaf)
        return torch.autograd.grad(y, leaf, torch.ones_like(y))[0].nan_to_num(0, 0, 0)


def pulled_back(f: Operation, gradient: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of each input by the chain rule."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = f(*leaves)
        return torch.autograd.grad(y, leaves, gradient.to(y.dtype))


def wide(t: Tensor) -> Tensor:
    """At least float32: differences of half-precision numbers have no digits left."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def gradient_over(gradient: Tensor, dims: tuple[int, ...], rank: int, keepdim: bool) -> Tensor:
    """The gradient of a reduction with the reduced dimensions put back, of size 1."""
    if not keepdim:
        for dim in sorted(d % rank for d in dims):
            gradient = gradient.unsqueeze(dim)
    return gradient
