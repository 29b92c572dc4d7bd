"""Max-pools for a GPU in Triton: the place that wins in each window as one byte, and a gradient that is gathered, each place written once.

Activations and results are channels_last. Nothing is rounded on the way forward, so that there these are torch's numbers to the
bit; on the way back sums are float32. The gate of the rectifier that made the input is in the byte: what a window takes the
maximum of is what comes out of it, so whether that lies between the ends is known on the way forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

from attribution.channels_last import empty, last
from attribution.geometry import Ends, Window
from attribution.gpu.tiles import unit_of, width_of

NOBODY = tl.constexpr(255)
"""In the place of a tap: no place gets this window's gradient."""

MOST_TAPS, MOST_PHASES = 25, 16
"""Of a window, and pixels of one of its steps: loops over both are unrolled, and what they read lies in registers."""

TILE_BYTES = 2048
"""Of numbers of a program's tile: 16 bytes, the widest load, for each of its 128 threads."""

NUMBERS = ("images", "from_h", "from_w", "to_h", "to_w", "units")
"""What a kernel is not compiled anew for."""


def can(x: Tensor, window: Window) -> bool:
    """Whether these kernels take it, by 32-bit offsets; what torch refuses is torch's to refuse."""
    if x.dim() != 4 or not x.numel() or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    (height, width), (down, across) = window.size, window.stride
    if min(*window.size, *window.stride, *window.dilation) < 1 or min(window.padding) < 0:
        return False
    if height * width > MOST_TAPS or down * across > MOST_PHASES or min(window.outputs(x.shape[2:])) < 1:
        return False
    is_padded_less = all(2 * pad <= size for pad, size in zip(window.padding, window.size, strict=True))
    return is_padded_less and x.shape[1] * len(x) * (x.shape[2] + 64) * (x.shape[3] + 64) < 2**31


def pool(x: Tensor, window: Window) -> Tensor:
    """(n, c, h, w) -> (n, c, h', w')"""
    y = empty(x, x.shape[1], window.outputs(x.shape[2:]))
    _launch_pool(x, y, y, window, None, is_kept=False)
    return y


def pool_and_taps(x: Tensor, window: Window, gate: Ends | None) -> tuple[Tensor, Tensor]:
    """(n, c, h, w) -> (n, c, h', w'), and there which tap of the window won (uint8); nobody where that is not between the ends."""
    y = empty(x, x.shape[1], window.outputs(x.shape[2:]))
    taps = torch.empty_like(y, dtype=torch.uint8)
    _launch_pool(x, y, taps, window, gate, is_kept=True)
    return y, taps


def pulled_back(gradient: Tensor, taps: Tensor, window: Window, shape: torch.Size) -> Tensor:
    """What the gradient of a max-pool's output comes to at its input.  gradient (n, c, h', w') -> shape (n, c, h, w)"""
    found = empty(gradient, shape[1], shape[2:])
    # A program takes all pixels of some steps of the window, of which the first and the last reach over the edges.
    steps = [
        (extent + pad - 1) // step - pad // step + 1
        for extent, pad, step in zip(shape[2:], window.padding, window.stride, strict=True)
    ]
    _launch(_pull_back, (last(gradient), taps, found), found, (*taps.shape[2:], *shape[2:]), steps, window)
    return found


def _launch_pool(x: Tensor, y: Tensor, taps: Tensor, window: Window, gate: Ends | None, *, is_kept: bool) -> None:
    low, high = gate or (-inf, inf)
    limits = low, nan if high == inf else high  # nothing is nan or more
    how = {"TAPPED": is_kept, "GATED": gate is not None}
    _launch(_pool, (x, y, taps), y, (*x.shape[2:], *y.shape[2:]), y.shape[2:], window, *limits, **how)


def _launch(
    kernel: Any,
    arrays: tuple[Tensor, ...],
    y: Tensor,
    extents: tuple[int, ...],
    across: Sequence[int],
    window: Window,
    *limits: float,
    **how: Any,
) -> None:
    unit, channels = unit_of(y.shape[1]), width_of(y.shape[1], 64)
    pixels = TILE_BYTES // (channels * y.element_size())
    grid = (triton.cdiv(len(y) * across[0] * across[1], pixels) * triton.cdiv(y.shape[1], channels),)
    names = ("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW")
    settings = dict(zip(names, (size for sizes in window[:4] for size in sizes), strict=True))
    numbers = (len(y), *extents, y.shape[1] // unit, *limits)
    how = {**settings, **how, "UNIT": unit, "PIXELS": pixels, "CHANNELS": channels}
    with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]  # torch leaves it untyped; Triton launches on the current one
        kernel[grid](*arrays, *numbers, **how, num_warps=4)


@triton.jit
def _place(images, across_h, across_w, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """(image, row, column, channel, whether there is such a pixel, such a channel) of this program's tile."""
    columns = (channels + CHANNELS - 1) // CHANNELS
    tile = tl.program_id(0)
    pixel = tile // columns * PIXELS + tl.arange(0, PIXELS)
    c = tile % columns * CHANNELS + tl.arange(0, CHANNELS)
    within = pixel % (across_h * across_w)
    is_pixel = pixel < images * across_h * across_w
    return pixel // (across_h * across_w), within // across_w, within % across_w, c, is_pixel, c < channels


@triton.jit(do_not_specialize=NUMBERS)
def _pool(
    x,
    y,
    taps,
    images,
    from_h,
    from_w,
    to_h,
    to_w,
    units,
    low,
    high,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    UNIT: tl.constexpr,
    TAPPED: tl.constexpr,
    GATED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """PIXELS and CHANNELS of the pool's output: of equal maxima the first wins, and of what is no number the last, as torch has it."""
    channels = units * UNIT
    image, i, j, c, is_pixel, is_c = _place(images, to_h, to_w, channels, PIXELS, CHANNELS)
    top, left = i * SH - PH, j * SW - PW
    best = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    # Where all are -inf it is the first one inside.
    first = (tl.maximum(-top, 0) + DH - 1) // DH * KW + (tl.maximum(-left, 0) + DW - 1) // DW
    winner = tl.full((PIXELS, CHANNELS), 0, tl.int32) + first[:, None]
    for tap_h in tl.static_range(KH):
        for tap_w in tl.static_range(KW):
            row, column = top + tap_h * DH, left + tap_w * DW
            is_there = is_pixel & (row >= 0) & (row < from_h) & (column >= 0) & (column < from_w)
            where = ((image * from_h + row) * from_w + column)[:, None] * channels + c[None, :]
            a = tl.load(x + where, mask=is_there[:, None] & is_c[None, :], other=float("-inf")).to(tl.float32)
            wins = (a > best) | (a != a)
            best = tl.where(wins, a, best)
            winner = tl.where(wins, tap_h * KW + tap_w, winner)
    out = ((image * to_h + i) * to_w + j)[:, None] * channels + c[None, :]
    is_out = is_pixel[:, None] & is_c[None, :]
    tl.store(y + out, best.to(y.dtype.element_ty), mask=is_out)
    if TAPPED:
        if GATED:
            winner = tl.where((best <= low) | (best >= high), NOBODY, winner)
        tl.store(taps + out, winner.to(tl.uint8), mask=is_out)


@triton.jit
def _plus_won(
    total,
    g,
    winner,
    FAR_H: tl.constexpr,
    FAR_W: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
):
    """Total + g where a window's winner is the pixel so far from its first, if that is under one of its taps."""
    if FAR_H % DH == 0 and FAR_W % DW == 0 and FAR_H // DH < KH and FAR_W // DW < KW:
        return total + tl.where(winner == FAR_H // DH * KW + FAR_W // DW, g, 0.0)
    else:  # noqa: RET505  # Triton follows one branch of a constant
        return total


@triton.jit(do_not_specialize=NUMBERS)
def _pull_back(
    gradient,
    taps,
    found,
    images,
    from_h,
    from_w,
    to_h,
    to_w,
    units,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    UNIT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The SH x SW pixels of each of PIXELS steps of the window: the sum over the windows that reach them, read once for all of them.

    Pixel s i + p - pad is under tap (s k + p) / d of window i - k, if that is whole.
    """
    channels = units * UNIT
    steps_h, steps_w = (to_h + PH - 1) // SH - PH // SH + 1, (to_w + PW - 1) // SW - PW // SW + 1
    image, i, j, c, is_pixel, is_c = _place(images, steps_h, steps_w, channels, PIXELS, CHANNELS)
    i, j = i + PH // SH, j + PW // SW
    REACH_H: tl.constexpr = (DH * (KH - 1)) // SH
    REACH_W: tl.constexpr = (DW * (KW - 1)) // SW
    totals = ()
    for _ in tl.static_range(SH * SW):
        totals = totals + (tl.full((PIXELS, CHANNELS), 0.0, tl.float32),)
    for back_h in tl.static_range(REACH_H + 1):
        for back_w in tl.static_range(REACH_W + 1):
            row, column = i - (REACH_H - back_h), j - (REACH_W - back_w)
            is_there = is_pixel & (row >= 0) & (row < from_h) & (column >= 0) & (column < from_w)
            where = ((image * from_h + row) * from_w + column)[:, None] * channels + c[None, :]
            is_read = is_there[:, None] & is_c[None, :]
            g = tl.load(gradient + where, mask=is_read, other=0.0).to(tl.float32)
            winner = tl.load(taps + where, mask=is_read, other=NOBODY).to(tl.int32)
            sums = ()
            for p in tl.static_range(SH * SW):
                total = _plus_won(
                    totals[p],
                    g,
                    winner,
                    (REACH_H - back_h) * SH + p // SW,
                    (REACH_W - back_w) * SW + p % SW,
                    KH,
                    KW,
                    DH,
                    DW,
                )
                sums = sums + (total,)
            totals = sums
    for p in tl.static_range(SH * SW):
        row, column = i * SH - PH + p // SW, j * SW - PW + p % SW
        is_there = is_pixel & (row >= 0) & (row < to_h) & (column >= 0) & (column < to_w)
        out = ((image * to_h + row) * to_w + column)[:, None] * channels + c[None, :]
        tl.store(found + out, totals[p].to(found.dtype.element_ty), mask=is_there[:, None] & is_c[None, :])
