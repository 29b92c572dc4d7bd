"""Rules' steps as kernels of a GPU, in Triton's language: what `elementwise.c` has for cores, one pass over memory each.

torch's operations, which take the same steps one by one, are the law: for float32 and float64 equal to the bit, as every step
is rounded to nearest and none is fused with another. float16 and bfloat16 are computed in float32 and rounded once, at the end.

Arrays are (rows, width), row behind row. A program takes BLOCK columns of one row, so that a row that all share is read by
column, and no number needs a division to know its place. Nothing waits for the device; a CUDA graph can hold all of it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

BLOCK = 1024
"""Columns of a program: eight numbers a thread, two or, of half precision, one load of 16 bytes for each array."""

WIDEST = 2**31 - BLOCK
"""Columns are counted in 32 bits, as dividing them by 64 would take longer than memory does; rows in 64."""

MOST_PROGRAMS = 2**31 - 1

REALS = {torch.float16: tl.float32, torch.bfloat16: tl.float32, torch.float32: tl.float32, torch.float64: tl.float64}
"""What each type is computed in."""


def rescale(out: Tensor, x: Tensor, gradient: Tensor, reference: Tensor, low: float, high: float) -> bool:
    """DeepLIFT's multiplier of a clamp times the gradient.  reference: (rows or 1, width), or (1, 1)"""
    is_number = reference.numel() == 1
    row_step = 0 if len(reference) == 1 else out.shape[1]
    return _launched(_rescale, out, (x, gradient, reference), (row_step, is_number, low, high))


def damp(
    out: Tensor, z: Tensor, gradient: Tensor, before: Tensor | None, scale: Tensor | None, inner: int, eps: float
) -> bool:
    """LRP's stabiliser.  scale: (C,), each channel being `inner` columns long, or one and coming again after all others; or none"""
    channels = 1 if scale is None else len(scale)
    return _launched(_damp, out, (z, gradient, before, scale), (channels, inner, inner == 1, eps))


def guide(out: Tensor, y: Tensor, gradient: Tensor, high: float) -> bool:
    """Guided Backprop's gate."""
    return _launched(_guide, out, (y, gradient), (high,))


def clamp(out: Tensor, x: Tensor, low: float, high: float) -> bool:
    """X goes to `out` as it is, and is then clamped where it lies."""
    return _launched(_clamp, out, (x,), (low, high))


def trial(device: torch.device) -> None:
    """Whether kernels can be compiled and launched there at all; else the error says what is missing."""
    ones = torch.ones(1, 8, device=device)
    guide(torch.empty_like(ones), ones, ones, 2.0)


def _launched(kernel: Any, out: Tensor, arrays: tuple[Tensor | None, ...], rest: tuple[Any, ...]) -> bool:
    rows, width = out.shape
    blocks = triton.cdiv(width, BLOCK)
    if out.dtype not in REALS or width > WIDEST or rows * blocks > MOST_PROGRAMS:
        return False
    # No fusion: there is no sum of a product in any of the steps, and this keeps it so.
    how = {"REAL": REALS[out.dtype], "BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False}
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]  # torch leaves it untyped; Triton launches on the current one
        kernel[(rows * blocks,)](out, *arrays, width, blocks, *rest, **how)
    return True


@triton.jit
def _place(width, blocks, BLOCK: tl.constexpr):
    """This program's (row, columns of it, whether there are such)."""
    program = tl.program_id(0)
    columns = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), columns, columns < width


@triton.jit
def _over(a, b, REAL: tl.constexpr):
    """A / b rounded to nearest: Triton's own quotient of float32 may be off by two units in the last place."""
    return a / b if REAL == tl.float64 else tl.div_rn(a, b)


@triton.jit
def _clamped(a, LOW: tl.constexpr, HIGH: tl.constexpr):
    return tl.where(a < LOW, LOW, tl.where(a > HIGH, HIGH, a))  # no number stays none


@triton.jit
def _kept(z, EPS: tl.constexpr, REAL: tl.constexpr):
    """|z| / (|z| + eps), and 1 where z is infinite or no number."""
    size = tl.abs(z)
    kept = _over(size, size + EPS, REAL)
    return tl.where(kept != kept, 1.0, kept)


@triton.jit(do_not_specialize=["blocks"])
def _rescale(
    out,
    x,
    gradient,
    reference,
    width,
    blocks,
    row_step,
    IS_NUMBER: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(f(x) - f(r)) / (x - r) for f = clamp; at x = r its slope, 1 between the ends."""
    row, columns, there = _place(width, blocks, BLOCK)
    a = tl.load(x + row * width + columns, mask=there).to(REAL)
    g = tl.load(gradient + row * width + columns, mask=there).to(REAL)
    if IS_NUMBER:
        b = tl.load(reference).to(REAL)
    else:
        b = tl.load(reference + row * row_step + columns, mask=there).to(REAL)
    slope_at_b = tl.where((b > LOW) & (b < HIGH), 1.0, 0.0).to(REAL)
    slope = _over(_clamped(a, LOW, HIGH) - _clamped(b, LOW, HIGH), a - b, REAL)
    tl.store(out + row * width + columns, tl.where(a == b, slope_at_b, slope) * g, mask=there)


@triton.jit(do_not_specialize=["blocks"])
def _damp(
    out,
    z,
    gradient,
    before,
    scale,
    width,
    blocks,
    channels,
    inner,
    COLUMN_BY_COLUMN: tl.constexpr,
    EPS: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Times the scale, and the same of `before`, where there are such."""
    row, columns, there = _place(width, blocks, BLOCK)
    signal = _kept(tl.load(z + row * width + columns, mask=there).to(REAL), EPS, REAL)
    signal *= tl.load(gradient + row * width + columns, mask=there).to(REAL)
    if scale is not None:
        channel = columns % channels if COLUMN_BY_COLUMN else columns // inner
        signal *= tl.load(scale + channel, mask=there).to(REAL)
        if before is not None:
            signal *= _kept(tl.load(before + row * width + columns, mask=there).to(REAL), EPS, REAL)
    tl.store(out + row * width + columns, signal, mask=there)


@triton.jit(do_not_specialize=["blocks"])
def _guide(out, y, gradient, width, blocks, HIGH: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient where it is not negative and 0 < y < high."""
    row, columns, there = _place(width, blocks, BLOCK)
    b = tl.load(y + row * width + columns, mask=there).to(REAL)
    g = tl.load(gradient + row * width + columns, mask=there).to(REAL)
    tl.store(out + row * width + columns, tl.where((b <= 0) | (b >= HIGH) | (g < 0), 0.0, g), mask=there)


@triton.jit(do_not_specialize=["blocks"])
def _clamp(out, x, width, blocks, LOW: tl.constexpr, HIGH: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr):
    row, columns, there = _place(width, blocks, BLOCK)
    a = tl.load(x + row * width + columns, mask=there)
    tl.store(out + row * width + columns, a, mask=there)
    tl.store(x + row * width + columns, _clamped(a.to(REAL), LOW, HIGH), mask=there)
