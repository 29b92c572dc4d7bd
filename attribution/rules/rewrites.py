"""Operations written as others that have rules of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from attribution.calls import Bound
    from attribution.propagation import Lending, Treatment


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001  # models are explained in evaluation mode
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention as two products and a softmax.  (..., L, E), (..., S, E), (..., S, V) -> (..., L, V)"""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return torch.matmul(torch.softmax(logits, -1), value)


def added_product(total: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """addmm, baddbmm, addmv: beta total + alpha a b."""
    return beta * total + alpha * torch.matmul(a, b)


def added_elementwise(total: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """addcmul: total + value a b."""
    return total + value * torch.mul(a, b)


def added_quotient(total: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """addcdiv: total + value a / b."""
    return total + value * torch.div(a, b)


def gated(x: Tensor, dim: int = -1) -> Tensor:
    """glu: the first half through the gate of the second."""
    signal, gate = x.chunk(2, dim)
    return torch.mul(signal, torch.sigmoid(gate))


def variance(
    x: Tensor,
    dim: int | tuple[int, ...] | bool | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Var as a mean of squares."""
    if isinstance(dim, bool):
        return variance(x, None, dim, keepdim)
    dims = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    correction = (1 if unbiased else 0) if correction is None else correction
    count = math.prod(x.shape[d] for d in dims)
    return torch.square(x - x.mean(dims, keepdim=True)).sum(dims, keepdim=keepdim) / (count - correction)


def deviation(
    x: Tensor,
    dim: int | tuple[int, ...] | bool | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Std as the root of var."""
    return torch.sqrt(variance(x, dim, unbiased, keepdim, correction=correction))


def euclidean_norm(
    x: Tensor,
    ord: float = 2,  # noqa: A002  # torch's name
    dim: int | tuple[int, ...] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """vector_norm as the root of a sum of powers."""
    x = x if dtype is None else x.to(dtype)
    dims = tuple(range(x.dim())) if dim is None else dim
    if ord == 1:
        return torch.abs(x).sum(dims, keepdim=keepdim)
    powers = torch.square(x) if ord == 2 else torch.pow(torch.abs(x), ord)
    return torch.pow(powers.sum(dims, keepdim=keepdim), 1 / ord)


def largest(x: Tensor, dim: int | tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    """Amax over several dimensions as one over the last."""
    dims = sorted(d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim or range(x.dim())))
    last = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims)) if dims else x.unsqueeze(-1)
    result = torch.amax(last, -1, keepdim=True).squeeze(-1)
    for d in dims if keepdim else ():
        result = result.unsqueeze(d)
    return result


def smallest(x: Tensor, dim: int | tuple[int, ...] = (), keepdim: bool = False) -> Tensor:
    """Amin by amax."""
    return -largest(-x, dim, keepdim)


def larger(a: Tensor, b: Tensor) -> Tensor:
    """Maximum of two by amax."""
    return torch.amax(torch.stack([a + torch.zeros_like(b), b + torch.zeros_like(a)], -1), -1, keepdim=True).squeeze(-1)


def smaller(a: Tensor, b: Tensor) -> Tensor:
    """Minimum of two by amax."""
    return -larger(-a, -b)


def maxima(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False, *, other: Tensor | None = None) -> object:
    """The three forms of torch.max."""
    return _extrema(x, dim, keepdim, other, larger, largest, torch.max)


def minima(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False, *, other: Tensor | None = None) -> object:
    """The three forms of torch.min."""
    return _extrema(x, dim, keepdim, other, smaller, smallest, torch.min)


def _extrema(
    x: Tensor,
    dim: int | Tensor | None,
    keepdim: bool,
    other: Tensor | None,
    of_two: Callable[[Tensor, Tensor], Tensor],
    over: Callable[..., Tensor],
    whole: Callable[..., Any],
) -> object:
    if isinstance(dim, Tensor) or other is not None:
        return of_two(x, dim if isinstance(dim, Tensor) else cast("Tensor", other))
    if dim is None:
        return over(x)
    plain = whole(x.detach(), dim, keepdim)
    return type(plain)((over(x, dim, keepdim), plain.indices))


REWRITES: dict[str, Callable[..., object]] = {
    "scaled_dot_product_attention": attention,
    "addmm": added_product,
    "baddbmm": added_product,
    "addmv": added_product,
    "addcmul": added_elementwise,
    "addcdiv": added_quotient,
    "glu": gated,
    "var": variance,
    "std": deviation,
    "linalg_vector_norm": euclidean_norm,
    "max": maxima,
    "min": minima,
    "amin": smallest,
}


def rewritten(lending: Lending, bound: Bound) -> object:
    """The treatment: the same arguments to the operations written in the call's place."""
    return lending.rewrite(REWRITES[bound.name], *bound.args, **bound.kwargs)


TREATMENTS: dict[str, Treatment] = dict.fromkeys(REWRITES, rewritten)
