"""Rules' steps compiled from `elementwise.c`: one pass over memory where torch's operations take one for each step.

Each returns whether it has done its work: not on a GPU, not for half precision, not for arrays that lie in no order, and not where the
installation found no compiler. What torch computes step by step instead is equal to the bit.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from attribution.blocks import flat, layout_of

PIECE = 1 << 15
"""Numbers that a thread takes at least, as torch's own do."""

VERSION = 1  # of elementwise.c, as it says itself

REALS = {torch.float32: ("float32", ctypes.c_float), torch.float64: ("float64", ctypes.c_double)}


def rescale(output: Tensor, x: Tensor, gradient: Tensor, reference: Tensor, ends: tuple[float, float]) -> bool:
    """Gradient times DeepLIFT's multiplier of f = clamp between `ends`.  reference: like x, one row, or one number"""
    return _ran("rescale", output, (x, gradient), ends, reference)


def damp(
    output: Tensor,
    z: Tensor,
    gradient: Tensor,
    eps: float,
    scale: Tensor | None = None,
    before: Tensor | None = None,
) -> bool:
    """Gradient times |z| / (|z| + eps), which is 1 where z is infinite.

    With a scale for each channel (C,) times that, and then, if there is one, damped by another output `before` likewise.
    """
    if scale is None:
        return _ran("damp", output, (z, gradient), (eps,), of_channels=(None, 1, 1))
    layout = layout_of(output)
    if layout is None or scale.dtype != output.dtype or not scale.is_contiguous():
        return False
    inner = 1 if layout is torch.channels_last else output[0, 0].numel()
    inputs = (z, gradient) if before is None else (z, gradient, before)
    return _ran("damp", output, inputs, (eps,), of_channels=(scale, len(scale), inner))


def guide(output: Tensor, y: Tensor, gradient: Tensor, high: float) -> bool:
    """Gradient where it is positive and 0 < y < high."""
    return _ran("guide", output, (y, gradient), (high,))


@cache
def library() -> ctypes.CDLL | None:
    """What was compiled for this interpreter and machine, if it was."""
    path = Path(__file__).with_name(f"_elementwise{sysconfig.get_config_var('EXT_SUFFIX')}")
    try:
        found = ctypes.CDLL(str(path))
        version = ctypes.c_int.in_dll(found, "elementwise_version").value
    except (OSError, ValueError):  # not there, another machine's, older than versions, or a torch without OpenMP
        return None
    return found if version == VERSION else None


def _ran(
    name: str,
    output: Tensor,
    inputs: Sequence[Tensor],
    numbers: Sequence[float],
    reference: Tensor | None = None,
    of_channels: tuple[Tensor | None, int, int] | None = None,
) -> bool:
    compiled, layout = library(), layout_of(output)
    read = inputs if reference is None else (*inputs, reference)
    if compiled is None or layout is None or output.dtype not in REALS:
        return False
    if any(t.dtype != output.dtype or not t.is_cpu for t in (output, *read)):
        return False
    suffix, real = REALS[output.dtype]
    rows, width = len(output), output[0].numel()
    # Named, so that a copy lives until the call is over.
    arrays = [flat(t, output, layout).expand(rows, width) for t in (output, *inputs)]
    if any(array.stride() != (width, 1) for array in arrays):
        return False
    sizes = [rows, width]
    if reference is not None:
        arrays.append(reference.reshape(1, 1) if reference.numel() == 1 else flat(reference, output, layout))
        sizes += [width * (len(arrays[-1]) > 1), int(reference.numel() > 1)]
    function = getattr(compiled, f"{name}_{suffix}")
    threads = max(1, min(torch.get_num_threads(), rows * width // PIECE))
    pointers = [ctypes.c_void_p(array.data_ptr()) for array in arrays]
    if of_channels is not None:
        scale, *lengths = of_channels
        pointers += [ctypes.c_void_p(None)] * (4 - len(pointers))  # nothing before
        pointers.append(ctypes.c_void_p(None if scale is None else scale.data_ptr()))
        sizes = [*lengths, *sizes]
    function(ctypes.c_int(threads), *pointers, *map(ctypes.c_size_t, sizes), *map(real, numbers))
    return True
