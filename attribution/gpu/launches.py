"""Launches of the kernels of `kernels.py`, with the tiles that the rules say."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from attribution.geometry import Ends, Geometry
from attribution.gpu import kernels
from attribution.gpu.layouts import Laid, laid_out_by_taps, taps_of
from attribution.gpu.tiles import (
    box_for,
    box_tiles_for,
    boxes_pay,
    depthwise_tiles,
    few_tiles,
    tiles_for,
    unit_of,
)


def launch_product(
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
    if _are_boxes(x, laid, y, geometry, weight, gate, plus):
        _launch_boxes(x, gate, laid, bias, plus, y, geometry, weight, ends, **how)
        return
    steps = geometry.stride if how["BACK"] else (1, 1)
    phases = steps[0] * steps[1]
    pixels = len(y) * triton.cdiv(y.shape[2], steps[0]) * triton.cdiv(y.shape[3], steps[1])
    taps, is_half = weight.shape[2] * weight.shape[3], x.element_size() == 2
    tiles = tiles_for(y.shape[1], x.shape[1], taps, how["TERMS"], is_half=is_half)
    units = unit_of(x.shape[1]), unit_of(y.shape[1])
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


def launch_product_of_few(
    x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, geometry: Geometry, ends: Ends, **how: Any
) -> None:
    channels, unit, laid = y.shape[1], unit_of(y.shape[1]), laid_out_by_taps(weight)
    tiles = few_tiles(channels, (weight.shape[2], weight.shape[3]), x.shape[1], is_half=x.element_size() == 2)
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


def _are_boxes(x: Tensor, laid: Laid, y: Tensor, geometry: Geometry, weight: Tensor, *others: Tensor) -> bool:
    """Whether a chip's copy engine (since Hopper) takes them, and sooner: in steps of one pixel, and all addresses multiples of 16 bytes."""
    taps, pixels = weight.shape[2] * weight.shape[3], y.shape[2] * y.shape[3]
    if max(geometry.stride) > 1 or not boxes_pay(y.shape[1], x.shape[1], taps, pixels, is_half=x.element_size() == 2):
        return False
    has_engine = not x.is_cuda or torch.cuda.get_device_capability(x.device)[0] >= 9  # Triton's interpreter has one
    rows = x.shape[1] * x.element_size(), y.shape[1] * y.element_size(), laid.main.shape[3] * laid.main.element_size()
    starts = (t.data_ptr() for t in (x, *laid, y, *others))
    return has_engine and all(number % 16 == 0 for number in (*rows, *starts))


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
    tiles = box_tiles_for(y.shape[1], x.shape[1], taps, how["TERMS"], is_half=is_half, is_back=how["BACK"])
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


def launch_depthwise(
    x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, y: Tensor, geometry: Geometry, ends: Ends, **how: Any
) -> None:
    channels, unit = y.shape[1], unit_of(y.shape[1])
    taps, step = weight.shape[2] * weight.shape[3], max(geometry.stride)
    tiles = depthwise_tiles(taps, step, is_half=x.element_size() == 2, is_back=how["BACK"])
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


def is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    """Whether each pixel of the output is of one pixel of the input, the same in number."""
    return weight.shape[2:] == (1, 1) and max(geometry.stride) == 1 and max(geometry.padding) == 0


def _by_pixel(t: Tensor) -> Tensor:
    return t.permute(0, 2, 3, 1)


def _in_a_row(t: Tensor) -> Tensor:
    """All pixels as those of one row of one image."""
    return _by_pixel(t).reshape(1, 1, -1, t.shape[1])


def _descriptor(t: Tensor, box: tuple[int, ...]) -> Any:
    """Of a tensor that lies in one piece, whatever it says of the stride of a single row."""
    strides = [prod(t.shape[place:]) for place in range(1, t.dim())]
    return TensorDescriptor(t, list(t.shape), [*strides, 1], list(box))
