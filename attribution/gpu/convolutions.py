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
from math import inf, nan, prod
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

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
    laid = laid_out(weight)
    if x.shape[1] <= FEW:
        pixels, channels, depth, warps = few_tiles(len(weight))
        grid = (triton.cdiv(y.numel() // len(weight), pixels) * triton.cdiv(len(weight), channels),)
        unit = _unit(len(weight))
        kernels.product_of_few[grid](
            x,
            laid.main,
            laid.rest,
            bias,
            y,
            len(x),
            *x.shape[2:],
            *x.stride(),
            *sizes,
            len(weight) // unit,
            *geometry.padding,
            low,
            high,
            C=x.shape[1],
            **_names(weight, geometry),
            TO_UNIT=unit,
            TERMS=terms,
            **how,
            PIXELS=pixels,
            CHANNELS=channels,
            DEPTH=depth,
            num_warps=warps,
        )
        return y
    x, plus = _last(x), y if added is None else _last(added)
    how |= {"BACK": False, "GATED": False, "ADDED": added is not None}
    _launch_product(x, x, laid, bias, plus, y, geometry, weight, (low, high), TERMS=terms, **how)
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


def few_tiles(to_channels: int) -> tuple[int, int, int, int]:
    """Pixels, channels, depth and warps of a tile of a product of few channels."""
    return 128, _tile(to_channels, 64), 32, 4


def depthwise_tiles(channels: int, *, is_half: bool) -> tuple[int, int, int, int]:
    """Runs, their length, channels and warps of a tile of sums."""
    return 32 if is_half else 16, 4, _tile(channels, 32), 4


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
    if can_be_boxes(x, laid, y, geometry, gate, plus):
        _launch_boxes(x, gate, laid, bias, plus, y, geometry, weight, ends, **how)
        return
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


def can_be_boxes(x: Tensor, laid: Laid, y: Tensor, geometry: Geometry, *others: Tensor) -> bool:
    """Whether a chip's copy engine (since Hopper) takes them: in steps of one pixel, and all addresses multiples of 16 bytes."""
    has_engine = not x.is_cuda or torch.cuda.get_device_capability(x.device)[0] >= 9  # Triton's interpreter has one
    rows = x.shape[1] * x.element_size(), y.shape[1] * y.element_size(), laid.main.shape[3] * laid.main.element_size()
    starts = (t.data_ptr() for t in (x, *laid, y, *others))
    return has_engine and max(geometry.stride) == 1 and all(number % 16 == 0 for number in (*rows, *starts))


def _launch_boxes(
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
    taps, is_half = weight.shape[2] * weight.shape[3], x.element_size() == 2
    tiles = tiles_for(y.shape[1], x.shape[1], taps, how["TERMS"], is_half=is_half)
    images, tall, wide = box = (
        (1, 1, tiles.pixels) if is_pointwise(weight, geometry) else box_for(y.shape[2], y.shape[3], tiles.pixels)
    )
    seen = _in_a_row if is_pointwise(weight, geometry) else _by_pixel
    boxes = [triton.cdiv(extent, side) for extent, side in zip(seen(y).shape, box, strict=False)]
    source = _descriptor(seen(x), (*box, tiles.depth))
    gate, plus, to = (_descriptor(seen(t), (*box, tiles.channels)) for t in (gate if how["GATED"] else y, plus, y))
    side = (tiles.depth, 1, tiles.channels) if how["BACK"] else (tiles.channels, 1, tiles.depth)
    main, rest = (_descriptor(part.flatten(1, 2), side) for part in laid)
    kernels.product_of_boxes[(prod(boxes) * triton.cdiv(y.shape[1], tiles.channels),)](
        source,
        gate,
        main,
        rest,
        bias,
        plus,
        to,
        boxes[1],
        boxes[2],
        y.shape[1],
        triton.cdiv(x.shape[1], tiles.depth),
        *geometry.padding,
        *ends,
        KH=weight.shape[2],
        KW=weight.shape[3],
        DH=geometry.dilation[0],
        DW=geometry.dilation[1],
        **how,
        IMAGES=images,
        TALL=tall,
        WIDE=wide,
        CHANNELS=tiles.channels,
        DEPTH=tiles.depth,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def box_for(rows: int, columns: int, pixels: int) -> tuple[int, int, int]:
    """Images, rows and columns of a box of so many pixels: so that few lie outside of an image; of many images some batch may lack some."""
    sides = [1 << power for power in range(5)]
    boxes = [(pixels // (tall * wide), tall, wide) for tall in sides for wide in sides if tall * wide <= pixels]

    def spent(box: tuple[int, int, int]) -> float:
        images, tall, wide = box
        pixels_read: int = triton.cdiv(rows, tall) * tall * triton.cdiv(columns, wide) * wide
        return pixels_read * (1 + images / 512)

    return min(boxes, key=spent)


def _by_pixel(t: Tensor) -> Tensor:
    return t.permute(0, 2, 3, 1)


def _in_a_row(t: Tensor) -> Tensor:
    """All pixels as those of one row of one image."""
    return _by_pixel(t).reshape(1, 1, -1, t.shape[1])


def _descriptor(t: Tensor, box: tuple[int, ...]) -> Any:
    """Of a tensor that lies in one piece, whatever it says of the stride of a single row."""
    strides = [prod(t.shape[place:]) for place in range(1, t.dim())]
    return TensorDescriptor(t, list(t.shape), [*strides, 1], list(box))


def _launch_depthwise(
    x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, y: Tensor, geometry: Geometry, ends: Ends, **how: Any
) -> None:
    unit = _unit(y.shape[1])
    runs, length, channels, warps = depthwise_tiles(y.shape[1], is_half=x.element_size() == 2)
    down, across = geometry.stride if how["BACK"] else (1, 1)
    count = len(y) * triton.cdiv(y.shape[2], down) * triton.cdiv(triton.cdiv(y.shape[3], across), length)
    grid = triton.cdiv(count, runs), triton.cdiv(y.shape[1], channels), down * across
    kernels.depthwise[grid](
        x,
        gate,
        laid_out(weight).main,
        bias,
        y,
        len(y),
        *x.shape[2:],
        *y.shape[2:],
        y.shape[1] // unit,
        *geometry.padding,
        *ends,
        **_names(weight, geometry),
        UNIT=unit,
        **how,
        RUNS=runs,
        RUN=length,
        CHANNELS=channels,
        num_warps=warps,
    )


def _names(weight: Tensor, geometry: Geometry) -> dict[str, int]:
    """What a kernel is compiled for."""
    (down, right), (hole_h, hole_w) = geometry.stride, geometry.dilation
    return {"KH": weight.shape[2], "KW": weight.shape[3], "SH": down, "SW": right, "DH": hole_h, "DW": hole_w}


@Derived
def laid_out(weight: Tensor) -> Laid:
    """The weights (k, c, h, w) as (k, h, w, c), in float32 split in two; of a depthwise convolution as (h, w, c)."""
    order = (2, 3, 0, 1) if weight.shape[1] == 1 else (0, 2, 3, 1)
    whole = weight.detach().permute(order).contiguous()
    if weight.dtype != torch.float32 or weight.shape[1] == 1:
        return Laid(whole, whole)
    main = whole.bfloat16()
    return Laid(main, (whole - main.float()).bfloat16())


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
