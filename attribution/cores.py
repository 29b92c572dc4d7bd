"""Convolutions for cores that multiply tiles of bfloat16 (AMX): float32 by three products, sum and rectifier in the same pass.

Offers what `gpu/convolutions.py` offers for a GPU; `products.c` computes. An image is read into planes, in which neighbours
are a step of the convolution apart and a tap is an offset, so that each tile of the left side lies in one piece. Of a
gradient, each phase of the pixels that are stepped over is written by itself (see `phases.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import inf, nan

import torch
from torch import Tensor
from torch.nn import functional

from attribution import native
from attribution.channels_last import empty, last
from attribution.derived import Derived
from attribution.geometry import Ends, Geometry, Sizes, is_depthwise
from attribution.ways import (
    DEPTH,
    WIDTH,
    Axis,
    axes,
    back_along,
    forward_along,
    sweep_back,
    sweep_forward,
    way_back,
    way_forward,
)

VERSION = 1  # of products.c, as it says itself

FEW = 8
"""Channels of an input that are left to torch: a tile takes 32."""

MOST_TAPS = 64
"""Places of a depthwise kernel."""

LACKING = "multiplies tiles of bfloat16 on cores, and here are no such tiles (amx_bf16), or products.c was not compiled"


@cache
def library() -> ctypes.CDLL | None:
    """What was compiled for this interpreter, where the processor has tiles and Linux lends them."""
    found = native.compiled("products", VERSION)
    return found if found is not None and found.products_are_there() else None


def can(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether there are tiles for it: plain convolutions of float32, of more than a few channels; and sums for depthwise ones."""
    is_plain = geometry.groups == 1 and weight.shape[1] > FEW
    is_small = is_depthwise(weight, geometry.groups) and weight[0, 0].numel() <= MOST_TAPS
    is_there = (is_plain or is_small) and x.dim() == 4 and x.numel() > 0 and x.is_cpu
    return is_there and x.dtype == weight.dtype == torch.float32 and library() is not None


def can_pull_back(geometry: Geometry) -> bool:  # noqa: ARG001  # a GPU's kernels don't take them all
    """Whether the gradient is taken, too."""
    return True


def can_add(weight: Tensor, geometry: Geometry) -> bool:  # noqa: ARG001  # as above
    """Whether another tensor is added in the same pass over memory, to what it puts out and to what it pulls back."""
    return True


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

    terms: of a product of float32 numbers, 1 or 3.
    """
    kernel, geometry = _sizes(weight), _in_tuples(geometry)
    y = empty(x, len(weight), geometry.sizes(x.shape[2:], kernel))
    rest = bias, added, None, ends or (-inf, inf), y
    if is_depthwise(weight, geometry.groups):
        sweep = sweep_forward(x.shape, y.shape, kernel, geometry)
        _compute("sums", sweep, x, (taps_last(weight),), *rest)
    else:
        way = way_forward(x.shape, y.shape, kernel, geometry, terms)
        _compute("products", way, x, laid_out(weight, geometry).of(terms), *rest)
    return y


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

    gradient (n, k, h', w') -> shape (n, c, h, w), channels_last.
    """
    found = empty(gradient, shape[1], shape[2:])
    low, high = ends
    limits = (low, nan) if gate is not None and high == inf else ends  # nothing is nan or more
    kernel, geometry, rest = _sizes(weight), _in_tuples(geometry), (None, added, gate, limits, found)
    if is_depthwise(weight, geometry.groups):
        sweep = sweep_back(gradient.shape, shape, kernel, geometry)
        _compute("sums", sweep, gradient, (taps_last(weight),), *rest)
    else:
        way = way_back(gradient.shape, shape, kernel, geometry, terms)
        _compute("products", way, gradient, laid_out_back(weight, geometry).of(terms), *rest)
    return found


def _compute(
    name: str,
    way: ctypes.Structure,
    x: Tensor,
    weights: Sequence[Tensor | None],
    bias: Tensor | None,
    added: Tensor | None,
    gate: Tensor | None,
    ends: Ends,
    y: Tensor,
) -> None:
    compiled = library()
    assert compiled is not None
    # Held until they have been read.
    arrays = [
        last(x),
        *weights,
        None if bias is None else bias.contiguous(),
        *(None if each is None else last(each) for each in (added, gate)),
    ]
    pointers = [ctypes.c_void_p(None if each is None else each.data_ptr()) for each in arrays]
    limits = map(ctypes.c_float, ends)
    threads = ctypes.c_int(torch.get_num_threads())
    function = getattr(compiled, name)
    if not function(threads, ctypes.byref(way), *pointers, *limits, ctypes.c_void_p(y.data_ptr())):
        raise MemoryError("no memory for a convolution's scratch")


@dataclass(frozen=True, slots=True, eq=False)
class Laid:
    """A kernel's weights in the order in which they are read, a tile of 1 KiB after the other."""

    main: Tensor
    rest: Tensor
    """What rounding to bfloat16 has left of each."""

    def of(self, terms: int) -> tuple[Tensor, Tensor | None]:
        """What products of so many terms read."""
        return self.main, self.rest if terms > 1 else None


def _laid(matrices: Tensor, counts: list[int]) -> Laid:
    """(taps, channels read, channels written) -> for each group of taps (block, tap, depth, 2 tiles, 16 pairs, 16, 2)"""
    taps, depth, width = matrices.shape
    whole = functional.pad(matrices, (0, -width % WIDTH, 0, -depth % DEPTH))
    tiles = whole.reshape(taps, -1, DEPTH // 2, 2, whole.shape[2] // WIDTH, 2, WIDTH // 2).permute(4, 0, 1, 5, 2, 6, 3)
    ordered = torch.cat([part.flatten() for part in torch.split(tiles, counts, 1)])
    main = ordered.bfloat16()
    return Laid(main, (ordered - main.float()).bfloat16())


def _of_taps(weight: Tensor, by: tuple[Axis, Axis]) -> tuple[Tensor, list[int]]:
    """The weights of each tap, group by group, and how many there are in each.  (k, c, h, w) -> (taps, k, c)"""
    groups = [[(a.place, b.place) for a, b in product(*group)] for group in product(by[0].taps, by[1].taps)]
    places = [place for group in groups for place in group]
    taps = weight.detach()[:, :, [i for i, _ in places], [j for _, j in places]].permute(2, 0, 1)
    return taps, [len(group) for group in groups]


@Derived
def laid_out(weight: Tensor, geometry: Geometry) -> Laid:
    """(k, c, h, w), for the convolution."""
    taps, counts = _of_taps(weight, axes(forward_along, _sizes(weight), geometry))
    return _laid(taps.transpose(1, 2), counts)


@Derived
def laid_out_back(weight: Tensor, geometry: Geometry) -> Laid:
    """(k, c, h, w), for its gradient."""
    return _laid(*_of_taps(weight, axes(back_along, _sizes(weight), geometry)))


@Derived
def taps_last(weight: Tensor) -> Tensor:
    """A depthwise convolution's (k, 1, h, w) as (h, w, k)."""
    return weight.detach()[:, 0].permute(1, 2, 0).contiguous()


def _in_tuples(geometry: Geometry) -> Geometry:
    """To remember things by; models give steps as lists, too."""
    stride, padding, dilation, groups = geometry
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)


def _sizes(weight: Tensor) -> Sizes:
    return tuple(weight.shape[2:])
