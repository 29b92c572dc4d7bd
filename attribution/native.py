"""Rules' steps in one pass over memory, where torch's operations take one for each step: compiled for cores, or for a GPU.

Each returns whether it has done its work: not for arrays that lie in no order, not for half precision on cores, and not
where there is no compiler. What torch computes step by step instead is equal to the bit, but for half precision.
"""

from __future__ import annotations

import ctypes
import logging
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from attribution.blocks import flat, layout_of
from attribution.geometry import Ends

logger = logging.getLogger(__name__)

PIECE = 1 << 15
"""Numbers that a thread takes at least, as torch's own do."""

VERSION = 1  # of elementwise.c, as it says itself

REALS = {torch.float32: ("float32", ctypes.c_float), torch.float64: ("float64", ctypes.c_double)}


def rescale(output: Tensor, x: Tensor, gradient: Tensor, reference: Tensor, ends: Ends) -> bool:
    """Gradient times DeepLIFT's multiplier of f = clamp between `ends`.  reference: like x, one row, or one number"""
    steps, arrays = steps_for(output), _flat(output, x, gradient)
    if steps is None or arrays is None or not _are_alike(output, reference):
        return False
    is_number, layout = reference.numel() == 1, layout_of(output)
    assert layout is not None
    r = reference.reshape(1, 1) if is_number else flat(reference, output, layout)
    out, x, gradient = arrays
    return steps.rescale(out, x, gradient, r, *ends)


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
    inputs = (z, gradient) if before is None else (z, gradient, before)
    steps, arrays = steps_for(output), _flat(output, *inputs)
    if steps is None or arrays is None:
        return False
    if scale is not None and not (_are_alike(output, scale) and scale.is_contiguous()):
        return False
    inner = 1 if scale is None or layout_of(output) is torch.channels_last else output[0, 0].numel()
    out, z, gradient, *behind = arrays
    return steps.damp(out, z, gradient, behind[0] if behind else None, scale, inner, eps)


def guide(output: Tensor, y: Tensor, gradient: Tensor, high: float) -> bool:
    """Gradient where it is positive and 0 < y < high."""
    steps, arrays = steps_for(output), _flat(output, y, gradient)
    if steps is None or arrays is None:
        return False
    out, y, gradient = arrays
    return steps.guide(out, y, gradient, high)


def moved(x: Tensor, ends: Ends) -> Tensor | None:
    """A copy of x, which is then clamped where it lies; on a GPU only, as cores do it piece by piece (`blocks.moved`)."""
    if not x.is_cuda:
        return None
    copy = torch.empty_like(x)
    steps, arrays = steps_for(copy), _flat(copy, x)
    if steps is None or arrays is None:
        return None
    out, written = arrays
    if written.data_ptr() != x.data_ptr() or not steps.clamp(out, written, *ends):
        return None
    torch.autograd.graph.increment_version(x)  # as whatever torch writes
    return copy


class Steps(Protocol):
    """The steps over arrays (rows, width), row behind row; each returns whether it could."""

    def rescale(self, out: Tensor, x: Tensor, gradient: Tensor, reference: Tensor, low: float, high: float) -> bool:
        """reference: (rows or 1, width), or (1, 1)"""

    def damp(
        self,
        out: Tensor,
        z: Tensor,
        gradient: Tensor,
        before: Tensor | None,
        scale: Tensor | None,
        inner: int,
        eps: float,
    ) -> bool:
        """scale: (C,), each channel being `inner` columns long and coming again after all others; or none"""

    def guide(self, out: Tensor, y: Tensor, gradient: Tensor, high: float) -> bool:
        """As `guide` above."""

    def clamp(self, out: Tensor, x: Tensor, low: float, high: float) -> bool:
        """As `moved` above: x goes to `out` and is then clamped."""


def steps_for(output: Tensor) -> Steps | None:
    """The steps where this tensor lies, if they can be had there for its type."""
    if output.is_cuda:
        return on_gpu(output.device)
    steps = library() if output.is_cpu and output.dtype in REALS else None
    return None if steps is None else OnCores(steps)


@cache
def on_gpu(device: torch.device) -> Steps | None:
    """What Triton compiles for this GPU, where it is installed and finds what it needs; an installation for cores has none."""
    if find_spec("triton") is None:
        return None
    try:
        from attribution.gpu import steps

        steps.trial(device)
    except Exception as error:  # noqa: BLE001  # no C compiler, an older GPU, another Triton: torch's operations are there
        logger.warning("no kernels of ours on this GPU, torch computes alone: %s", str(error).strip().split("\n", 1)[0])
        return None
    return steps


@cache
def kernels_on_gpu(name: str, device: torch.device) -> ModuleType | None:
    """`attribution.gpu.<name>`, where Triton can compile for this GPU; no core needs Triton."""
    return None if on_gpu(device) is None else import_module(f"attribution.gpu.{name}")


@cache
def library() -> ctypes.CDLL | None:
    """The steps as they were compiled for this interpreter and machine, if they were."""
    return compiled("elementwise", VERSION)


def compiled(name: str, version: int) -> ctypes.CDLL | None:
    """What was made of `name`.c, if it is there, of this version by its own word (`name`_version), and can be loaded."""
    path = Path(__file__).with_name(f"_{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    try:
        found = ctypes.CDLL(str(path))
        is_this = ctypes.c_int.in_dll(found, f"{name}_version").value == version
    except (OSError, ValueError):  # not there, another machine's, older than versions, or a torch without OpenMP
        return None
    return found if is_this else None


@dataclass(frozen=True, slots=True)
class OnCores:
    """The steps of `elementwise.c`, which say there what they compute."""

    library: ctypes.CDLL

    def rescale(self, out: Tensor, x: Tensor, gradient: Tensor, reference: Tensor, low: float, high: float) -> bool:
        """reference: (rows or 1, width), or (1, 1)"""
        row_step = out.shape[1] * (len(reference) > 1)
        return self._ran("rescale", (out, x, gradient, reference), (row_step, int(reference.numel() > 1)), (low, high))

    def damp(
        self,
        out: Tensor,
        z: Tensor,
        gradient: Tensor,
        before: Tensor | None,
        scale: Tensor | None,
        inner: int,
        eps: float,
    ) -> bool:
        """scale: (C,), each channel being `inner` columns long and coming again after all others; or none"""
        channels = (1 if scale is None else len(scale), inner)
        return self._ran("damp", (out, z, gradient, before, scale), (), (eps,), channels)

    def guide(self, out: Tensor, y: Tensor, gradient: Tensor, high: float) -> bool:
        """As `guide` above."""
        return self._ran("guide", (out, y, gradient), (), (high,))

    def clamp(self, out: Tensor, x: Tensor, low: float, high: float) -> bool:  # noqa: ARG002  # one signature for all
        """Not here, see `moved`."""
        return False

    def _ran(
        self,
        name: str,
        arrays: Sequence[Tensor | None],
        sizes: Sequence[int],
        numbers: Sequence[float],
        channels: Sequence[int] = (),
    ) -> bool:
        out = arrays[0]
        assert out is not None
        suffix, real = REALS[out.dtype]
        threads = max(1, min(torch.get_num_threads(), out.numel() // PIECE))
        pointers = [ctypes.c_void_p(None if array is None else array.data_ptr()) for array in arrays]
        lengths = map(ctypes.c_size_t, (*channels, *out.shape, *sizes))
        getattr(self.library, f"{name}_{suffix}")(ctypes.c_int(threads), *pointers, *lengths, *map(real, numbers))
        return True


def _flat(output: Tensor, *inputs: Tensor) -> list[Tensor] | None:
    """All of them as (rows, width) in the order in which the output lies, if it has one; the caller holds what had to be copied."""
    layout = layout_of(output)
    if layout is None or not output.numel() or not _are_alike(output, *inputs):
        return None
    rows, width = len(output), output[0].numel()
    arrays = [flat(t, output, layout).expand(rows, width) for t in (output, *inputs)]
    return None if any(array.stride() != (width, 1) for array in arrays) else arrays


def _are_alike(output: Tensor, *others: Tensor) -> bool:
    return all(t.dtype == output.dtype and t.device == output.device for t in others)
