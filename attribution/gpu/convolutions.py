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
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from attribution.derived import Derived
from attribution.geometry import Ends, Geometry
from attribution.gpu import kernels

FEW = 8
"""Channels of an input that are taken together with the taps of the kernel, so that a product is long enough."""


class Laid(NamedTuple):
    """A kernel's weights as the products read them."""

    main: Tensor
    rest: Tensor
    """What rounding to bfloat16 has left of each weight; the same once more where nothing was rounded, and nobody reads it."""


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel is convolved by one kernel of its own."""
    return groups == len(weight) > 1 and weight.shape[1] == 1


def is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    """Whether each pixel of the output is of one pixel of the input, the same in number."""
    return weight.shape[2:] == (1, 1) and max(geometry.stride) == 1 and max(geometry.padding) == 0


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
    y = _empty(x, len(weight), sizes)
    low, high = ends or (-inf, inf)
    how = {"BIASED": bias is not None, "CLAMPED": ends is not None}
    bias = weight if bias is None else bias
    if is_depthwise(weight, geometry.groups):
        x = _last(x)
        _launch_depthwise(x, x, weight, bias, y, geometry, (low, high), BACK=False, GATED=False, **how)
        return y
    if x.shape[1] <= FEW:
        _launch_product_of_few(x, weight, bias, y, geometry, (low, high), TERMS=terms, **how)
        return y
    x, plus = _last(x), y if added is None else _last(added)
    how |= {"BACK": False, "GATED": False, "ADDED": added is not None}
    _launch_product(x, x, laid_out(weight), bias, plus, y, geometry, weight, (low, high), TERMS=terms, **how)
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
    found = _empty(gradient, shape[1], shape[2:])
    gradient = _last(gradient)
    low, high = ends
    limits = (low, nan) if high == inf else ends  # nothing is nan or more
    how = {"BACK": True, "GATED": gate is not None, "BIASED": False, "CLAMPED": False}
    gate = found if gate is None else _last(gate)
    if is_depthwise(weight, geometry.groups):
        _launch_depthwise(gradient, gate, weight, weight, found, geometry, limits, **how)
        return found
    terms = terms if gradient.dtype == torch.float32 else 1
    plus = found if added is None else _last(added)
    how["ADDED"] = added is not None
    _launch_product(gradient, gate, laid_out(weight), weight, plus, found, geometry, weight, limits, TERMS=terms, **how)
    return found


class Tiles(NamedTuple):
    """The shape of a product's tiles, and how they are worked on."""

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int


def tiles_for(to_channels: int, from_channels: int, taps: int, terms: int, *, is_half: bool) -> Tiles:
    """By rule and not by timing, so that equal runs have equal sums; the rule is from timings of two networks on an H200."""
    width = _tile(to_channels, 64 if from_channels <= 32 else 128)
    is_deep = from_channels > 64 or (from_channels > 32 and terms == 1)
    depth = 16 if from_channels <= 16 else 64 if is_deep and (terms == 1 or taps > 1) else 32
    height = 128 if is_half and (width <= 32 or (width == 64 and taps > 1)) else 64
    steps = taps * triton.cdiv(from_channels, depth)
    return Tiles(height, width, depth, 4, min(2 if terms > 1 and depth == 64 else 3, steps + 1))


class FewTiles(NamedTuple):
    """The shape of a tile of a product of few channels: rows and columns of an image, and how it is worked on."""

    rows: int
    columns: int
    channels: int
    depth: int
    warps: int
    stages: int


def few_tiles(to_channels: int, taps: tuple[int, int], from_channels: int) -> FewTiles:
    """By rule: as deep as a kernel is, if that is little, or as one of its rows."""
    row = taps[1] * from_channels
    depth = _tile(taps[0] * row if taps[0] * row <= 32 else row, 1 << 16)
    return FewTiles(8, 8, _tile(to_channels, 64), depth, 4, 1)


class DepthwiseTiles(NamedTuple):
    """The shape of a tile of sums, and who works on it."""

    rows: int
    columns: int
    numbers: int
    """Channels of a thread, which holds their sums of all pixels, and the weights that its rows share."""
    channels: int
    """Of the threads side by side: what they read lies together, at least a sector of 32 bytes."""
    warps: int
    registers: int | None
    """The most of a thread: with 128 there is room for 16 warps, with 168 for 12. Left alone, a compiler reads far ahead."""

    @property
    def per_program(self) -> int:
        """Tiles of a program."""
        return max(32 * self.warps * self.numbers // self.channels, 1)


def depthwise_tiles(taps: int, step: int, size: int, *, is_back: bool) -> DepthwiseTiles:
    """By rule and not by timing; sums are the same in any tile.  size: the columns of the image that is written

    More rows read less and hold more; and a compiler takes long for many taps in many rows.
    """
    rows: int = 4
    registers: int | None = 128
    if is_back and step > 1:
        registers = None  # a tap meets one row in `step`
    elif taps > 25 or (taps > 16 and step > 1):
        rows, registers = 1, None
    elif taps > 16:
        rows, registers = 2, 128 if is_back else 168
    elif taps > 9 or step > 1 or size < 14:
        rows, registers = 2, None
    return DepthwiseTiles(rows, 4, 4, 16, 4, registers)


def _launch_product(
    x: Tensor,
    gate: Tensor,
    laid: Laid,
    bias: Tensor,
    plus: Tensor,
    y: Tensor,
    geometry: Geometry,
    weight: Tensor,
    ends: Ends,
    **how: Any,
) -> None:
    steps = geometry.stride if how["BACK"] else (1, 1)
    phases = steps[0] * steps[1]
    pixels = len(y) * triton.cdiv(y.shape[2], steps[0]) * triton.cdiv(y.shape[3], steps[1])
    taps, is_half = weight.shape[2] * weight.shape[3], x.element_size() == 2
    tiles = tiles_for(y.shape[1], x.shape[1], taps, how["TERMS"], is_half=is_half)
    units = _unit(x.shape[1]), _unit(y.shape[1])
    grid = triton.cdiv(pixels, tiles.pixels) * triton.cdiv(y.shape[1], tiles.channels), phases
    kernels.product[grid](
        x,
        gate,
        laid.main,
        laid.rest,
        bias,
        plus,
        y,
        len(y),
        *x.shape[2:],
        x.shape[1] // units[0],
        *y.shape[2:],
        y.shape[1] // units[1],
        *geometry.padding,
        *ends,
        **_names(weight, geometry),
        POINTWISE=is_pointwise(weight, geometry),
        FROM_UNIT=units[0],
        TO_UNIT=units[1],
        **how,
        PIXELS=tiles.pixels,
        CHANNELS=tiles.channels,
        DEPTH=tiles.depth,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def _launch_product_of_few(
    x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, geometry: Geometry, ends: Ends, **how: Any
) -> None:
    channels, unit, laid = y.shape[1], _unit(y.shape[1]), laid_out_by_taps(weight)
    tiles = few_tiles(channels, (weight.shape[2], weight.shape[3]), x.shape[1])
    count = len(y) * triton.cdiv(y.shape[2], tiles.rows) * triton.cdiv(y.shape[3], tiles.columns)
    grid = (count * triton.cdiv(channels, tiles.channels),)
    kernels.product_of_few[grid](
        x,
        laid.main,
        laid.rest,
        bias,
        y,
        *x.shape[2:],
        *x.stride(),
        *y.shape[2:],
        channels // unit,
        *geometry.padding,
        *ends,
        C=x.shape[1],
        **_names(weight, geometry),
        TO_UNIT=unit,
        **how,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
        CHANNELS=tiles.channels,
        DEPTH=tiles.depth,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def _launch_depthwise(
    x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, y: Tensor, geometry: Geometry, ends: Ends, **how: Any
) -> None:
    channels, unit = y.shape[1], _unit(y.shape[1])
    taps, step = weight.shape[2] * weight.shape[3], max(geometry.stride)
    tiles = depthwise_tiles(taps, step, y.shape[3], is_back=how["BACK"])
    down, across = geometry.stride if how["BACK"] else (1, 1)
    # A tile of a gradient has all phases of its pixels.
    rows, columns = triton.cdiv(tiles.rows, down) * down, triton.cdiv(tiles.columns, across) * across
    count = len(y) * triton.cdiv(y.shape[2], rows) * triton.cdiv(y.shape[3], columns)
    grid = (triton.cdiv(count, tiles.per_program) * triton.cdiv(channels, tiles.channels),)
    kernels.depthwise[grid](
        x,
        gate,
        taps_of(weight),
        bias,
        y,
        len(y),
        *x.shape[2:],
        *y.shape[2:],
        channels // unit,
        *ends,
        **_names(weight, geometry),
        PH=geometry.padding[0],
        PW=geometry.padding[1],
        UNIT=unit,
        **how,
        TILES=tiles.per_program,
        ROWS=rows,
        COLUMNS=columns,
        CHANNELS=tiles.channels,
        num_warps=tiles.warps,
        maxnreg=tiles.registers,
    )


def _names(weight: Tensor, geometry: Geometry) -> dict[str, int]:
    """What a kernel is compiled for."""
    (down, right), (hole_h, hole_w) = geometry.stride, geometry.dilation
    return {"KH": weight.shape[2], "KW": weight.shape[3], "SH": down, "SW": right, "DH": hole_h, "DW": hole_w}


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


def _empty(like: Tensor, channels: int, sizes: Any) -> Tensor:
    shape = (len(like), channels, *sizes)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def _unit(channels: int) -> int:
    """What channels come in multiples of, so that a compiler sees how wide they can be loaded."""
    return next(unit for unit in (8, 4, 2, 1) if channels % unit == 0)


def _tile(channels: int, most: int) -> int:
    return max(16, min(most, 1 << (channels - 1).bit_length()))
