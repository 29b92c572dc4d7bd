"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attribution.derived import Derived


class Laid(NamedTuple):
    """A kernel's weights as the products read them."""

    main: Tensor
    rest: Tensor
    """What rounding to bfloat16 has left of each weight; the same once more where nothing was rounded, and nobody reads it."""


@Derived
def laid_out(weight: Tensor) -> Laid:
    """The weights (k, c, h, w) as (k, h, w, c)."""
    return _split(weight.detach().permute(0, 2, 3, 1).contiguous())


@Derived
def laid_out_by_taps(weight: Tensor) -> Laid:
    """The weights (k, c, h, w) as (h, w, c, k)."""
    return _split(weight.detach().permute(2, 3, 1, 0).contiguous())


@Derived
def taps_of(weight: Tensor) -> Tensor:
    """A depthwise convolution's weights (c, 1, h, w) as (h, w, c), in float32 as the sums over them are."""
    return weight.detach()[:, 0].permute(1, 2, 0).float().contiguous()


def _split(weight: Tensor) -> Laid:
    """float32 in two; else all of it."""
    if weight.dtype != torch.float32:
        return Laid(weight, weight)
    main = weight.bfloat16()
    return Laid(main, (weight - main.float()).bfloat16())
