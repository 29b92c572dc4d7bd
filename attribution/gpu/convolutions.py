"""Convolutions for a GPU in Triton: bias and rectifier in the same pass over memory, and its gate in that of the gradient.

Activations are channels_last. A convolution is a matrix product whose left side is gathered tap by tap from the image, and
its gradient for the image likewise, for each phase of the pixels that it steps over (see `phases.py`). Depthwise
convolutions have no product: they are sums over taps.

float32 is multiplied as bfloat16 in three terms (bf16x3): with x = h + l, h the rounding of x to bfloat16 and l that of x - h,
x x' is h h' + h l' + l h' up to 2^-16 of it (Henry et al. 2019, arXiv:1904.06376). Sums are float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from attribution.channels_last import empty, last
from attribution.geometry import Ends, Geometry, is_depthwise
from attribution.gpu import launches
from attribution.gpu.layouts import laid_out

FEW = 8
"""Channels of an input that are taken together with the taps of the kernel, so that a product is long enough."""


def can(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether these kernels take it: plain or depthwise convolutions, by 32-bit offsets."""
    if not (geometry.groups == 1 or is_depthwise(weight, geometry.groups)) or not x.numel() or x.dim() != 4:
        return False
    largest = max(x.shape[1], len(weight)) * len(x) * (x.shape[2] + 64) * (x.shape[3] + 64)
    return largest < 2**31 and x.dtype == weight.dtype


def can_pull_back(geometry: Geometry) -> bool:
    """Whether the gradient is taken, too: not of steps over holes."""
    return max(geometry.dilation) == 1 or max(geometry.stride) == 1


def can_add(weight: Tensor, geometry: Geometry) -> bool:
    """Whether another tensor is added in the same pass over memory, to what it puts out and to what it pulls back."""
    return not is_depthwise(weight, geometry.groups) and weight.shape[1] > FEW


def _where_it_lies(launch: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Triton launches on the current device; one of several may hold the tensor."""

    @wraps(launch)
    def launched(first: Tensor, *others: Any, **settings: Any) -> Tensor:
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return launch(first, *others, **settings)

    return launched


@_where_it_lies
def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    ends: Ends | None,
    terms: int,
    added: Tensor | None = None,
) -> Tensor:
    """Clamp(conv2d(x, weight, bias) + added, *ends), where there are ends.  (n, c, h, w) -> (n, k, h', w'), channels_last

    terms: of a product of float32 numbers, 1 or 3. `added`, of the output's shape, is for what `can_add`.
    """
    terms = terms if x.dtype == torch.float32 else 1
    sizes = geometry.sizes(x.shape[2:], weight.shape[2:])
    y = empty(x, len(weight), sizes)
    low, high = ends or (-inf, inf)
    how = {"BIASED": bias is not None, "CLAMPED": ends is not None}
    bias = weight if bias is None else bias
    if is_depthwise(weight, geometry.groups):
        x = last(x)
        launches.launch_depthwise(x, x, weight, bias, y, geometry, (low, high), BACK=False, GATED=False, **how)
        return y
    if x.shape[1] <= FEW:
        launches.launch_product_of_few(x, weight, bias, y, geometry, (low, high), TERMS=terms, **how)
        return y
    x, plus = last(x), y if added is None else last(added)
    how |= {"BACK": False, "GATED": False, "ADDED": added is not None}
    launches.launch_product(x, x, laid_out(weight), bias, plus, y, geometry, weight, (low, high), TERMS=terms, **how)
    return y


@_where_it_lies
def pulled_back(
    gradient: Tensor,
    weight: Tensor,
    geometry: Geometry,
    shape: torch.Size,
    terms: int,
    gate: Tensor | None = None,
    ends: Ends = (-inf, inf),
    added: Tensor | None = None,
) -> Tensor:
    """What the gradient of a convolution's output comes to at its input, and `added`; nothing where `gate` is not between the ends.

    gradient (n, k, h', w') -> shape (n, c, h, w), channels_last. `added`, of this shape, is for what `can_add`.
    """
    found = empty(gradient, shape[1], shape[2:])
    gradient = last(gradient)
    low, high = ends
    limits = (low, nan) if high == inf else ends  # nothing is nan or more
    how = {"BACK": True, "GATED": gate is not None, "BIASED": False, "CLAMPED": False}
    gate = found if gate is None else last(gate)
    if is_depthwise(weight, geometry.groups):
        launches.launch_depthwise(gradient, gate, weight, weight, found, geometry, limits, **how)
        return found
    terms = terms if gradient.dtype == torch.float32 else 1
    plus = found if added is None else last(added)
    how["ADDED"] = added is not None
    launches.launch_product(
        gradient, gate, laid_out(weight), weight, plus, found, geometry, weight, limits, TERMS=terms, **how
    )
    return found
