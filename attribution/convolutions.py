"""Convolutions as a core does them fastest: the rectifier behind them in the same pass over memory, the gradient of few channels at once.

A torch function mode sees `conv2d`, as of torch's own, or `rectified_conv2d`; rules, which have none for that, take it in the
two steps of the model as given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from attribution.clamp import hardtanh_

Ends = tuple[float, float]
"""Between which a rectifier keeps its input: (0, inf) for ReLU, (0, 6) for ReLU6."""

Sizes = tuple[int, ...]
"""By rows and by columns."""

FUSED = frozenset({torch.float32, torch.bfloat16})
"""Types for which oneDNN has both in one pass."""

FEW = 4
"""Channels of the input: a library made for tens of them leaves most of its registers empty."""


@cache
def can_fuse() -> bool:
    """Whether torch was built with convolutions that rectify; it uses them itself, under a private name, in what it compiles."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return is_there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class Geometry(NamedTuple):
    """How a convolution goes over its input."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int


class Convolution(nn.Conv2d):
    """A convolution of zero-padded maps with frozen weights, and the rectifier that comes next, if `ends` are given."""

    ends: Ends | None

    @classmethod
    def of(cls, convolution: nn.Conv2d, ends: Ends | None) -> Convolution:
        """The same convolution, its weights and its name in the model."""
        ours = cls.__new__(cls)
        ours.__dict__.update(convolution.__dict__)
        ours.ends = ends
        return ours

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, k, h', w')"""
        assert not isinstance(self.padding, str)
        geometry = self.stride, self.padding, self.dilation, self.groups
        if self.ends is None:
            return conv2d(x, self.weight, self.bias, *geometry)
        return rectified_conv2d(x, self.weight, self.bias, *geometry, self.ends)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: *tuple[Sizes, Sizes, Sizes, int]) -> Tensor:
    """Torch's function of that name, which torch function modes take it for, with our gradient.  geometry: see Geometry"""
    if has_torch_function((x,)):
        seen: Tensor = handle_torch_function(conv2d, (x,), x, weight, bias, *geometry)
        return seen
    if not _is_ours(x, weight):
        return functional.conv2d(x, weight, bias, *geometry)
    return _convolved(x, weight, bias, Geometry(*geometry), None)


def rectified_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, *geometry_and_ends: *tuple[Sizes, Sizes, Sizes, int, Ends]
) -> Tensor:
    """Clamp(conv2d(x, weight, bias, *geometry), *ends)."""
    if has_torch_function((x,)):
        seen: Tensor = handle_torch_function(rectified_conv2d, (x,), x, weight, bias, *geometry_and_ends)
        return seen
    if not _is_ours(x, weight):
        return in_steps(x, weight, bias, *geometry_and_ends)
    geometry, ends = geometry_and_ends[:4], geometry_and_ends[4]
    return _convolved(x, weight, bias, Geometry(*geometry), ends)


def in_steps(
    x: Tensor, weight: Tensor, bias: Tensor | None, *geometry_and_ends: *tuple[Sizes, Sizes, Sizes, int, Ends]
) -> Tensor:
    """`rectified_conv2d` as two calls, which a mode sees."""
    geometry, ends = geometry_and_ends[:4], geometry_and_ends[4]
    y = conv2d(x, weight, bias, *geometry)
    if torch.compiler.is_compiling():
        return functional.hardtanh(y, *ends)
    return functional.relu(y, inplace=True) if ends == (0, inf) else hardtanh_(y, *ends)


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    """Whether it is on a core, with frozen weights; a compiler decides itself what it puts together."""
    return x.is_cpu and not weight.requires_grad and not torch.compiler.is_compiling()


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, ends: Ends | None) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _forward(x, weight, bias, geometry, ends)
    y: Tensor = Convolved.apply(x, weight, bias, geometry, ends)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, ends: Ends | None) -> Tensor:
    if ends is None:
        return functional.conv2d(x, weight, bias, *geometry)
    if x.dtype not in FUSED or not len(x) or not can_fuse():
        return in_steps(x, weight, bias, *geometry, ends)
    operation, numbers = ("relu", []) if ends == (0, inf) else ("hardtanh", list(ends))
    steps, sides, holes = map(list, geometry[:3])
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001  # see can_fuse
        x, weight, bias, sides, steps, holes, geometry.groups, operation, numbers, ""
    )
    return y


class Convolved(torch.autograd.Function):
    """A convolution by constant weights. It holds its output where that is rectified, and not its input as torch's own does."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, ends: Ends | None
    ) -> Tensor:
        """(n, c, h, w) -> (n, k, h', w')"""
        y = _forward(x, weight, bias, geometry, ends)
        ctx.save_for_backward(weight, *(() if ends is None else (y,)))
        ctx.geometry, ctx.ends, ctx.layout = geometry, ends, (x.shape, x.stride())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """What torch's own gradient of the input is, up to the order of its sums."""
        weight, *output = ctx.saved_tensors
        for y in output:
            gradient = _through(ctx.ends, y, gradient)
        found = gradient_of_input(gradient, weight, ctx.geometry, *ctx.layout)
        return found, None, None, None, None


def gradient_of_input(
    gradient: Tensor, weight: Tensor, geometry: Geometry, shape: torch.Size, stride: tuple[int, ...]
) -> Tensor:
    """What the gradient of a convolution's output comes to at its input, which has this shape and lies in these strides."""
    if _has_phases(weight, geometry):
        return Phases.of(weight, geometry).pulled_back(gradient, shape)  # made anew: of few channels it is soon made
    like = gradient.new_empty_strided(shape, stride)  # memory that nobody touches
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, like, weight, None, *geometry[:3], False, (0, 0), geometry.groups, (True, False, False)
    )[0]
    return found


def _through(ends: Ends, y: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of a rectifier's input: it passes where the output lies between the ends."""
    low, high = ends
    aten = torch.ops.aten
    passed: Tensor = (
        aten.threshold_backward(gradient, y, low) if high == inf else aten.hardtanh_backward(gradient, y, low, high)
    )
    return passed


@dataclass(frozen=True, slots=True, eq=False)
class Phases:
    """The gradient of a convolution that steps over its input by s, as one convolution by step 1.

    The input's pixels s i + p, for each phase p < s, get theirs from the same outputs i + d: input channels and phases together
    are the channels of a convolution of the output's gradient (Shi et al. 2016, arXiv:1609.05158, has the same for upsampling).
    A library's own gradient of three channels takes several times as long as the forward pass.
    """

    kernel: Tensor
    """(s s' c, k, n, n'): of each phase and channel, the weights of the outputs from `first` on."""
    first: tuple[int, int]
    """The first output i + d that a pixel of block i has part in."""
    steps: tuple[int, int]

    @classmethod
    def of(cls, weight: Tensor, geometry: Geometry) -> Phases:
        """Sort the kernel's places by the phase of the pixels that they meet.  weight (k, c, h, w)"""
        counts, firsts = list[int](), list[int]()
        for size, step, padding in zip(weight.shape[2:], geometry.stride, geometry.padding, strict=True):
            # Pixel s i + p meets output i + d at the kernel's place p + padding - s d.
            first, last = -((size - 1 - padding) // step), (step - 1 + padding) // step
            count = last - first + 1
            before = step * last - padding
            weight = functional.pad(weight.transpose(2, 3), (before, count * step - size - before))
            counts.append(count)
            firsts.append(first)
        (down, across), (s, t) = counts, (geometry.stride[0], geometry.stride[1])
        # -> (k, c, place d, phase, place d', phase'), places counted from the last output back
        parts = weight.reshape(*weight.shape[:2], down, s, across, t).permute(3, 5, 1, 0, 2, 4).flip(4, 5)
        kernel = parts.reshape(-1, weight.shape[0], down, across)
        # Without the outputs that no pixel has part in, as where a padding that was folded has put zeros around the kernel.
        rows, columns = (kernel.ne(0).flatten(0, 1).any(0).any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        if not rows:
            rows = columns = [0]
        kernel = kernel[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        met = firsts[0] + rows[0], firsts[1] + columns[0]
        return cls(kernel.contiguous(memory_format=torch.channels_last), met, (s, t))

    def pulled_back(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The input's gradient, from that of the output.  -> shape"""
        blocks, pads, starts = list[int](), list[int](), list[int]()
        each = zip(shape[2:], gradient.shape[2:], self.kernel.shape[2:], self.first, self.steps, strict=True)
        for extent, outputs, count, first, step in each:
            needed = -(-extent // step)
            pad = max(-first, needed - 1 + first + count - outputs, 0)  # on both sides, for the wider one
            blocks.append(needed)
            pads.append(pad)
            starts.append(pad + first)
        found = functional.conv2d(gradient, self.kernel, padding=pads)
        (top, left), (down, across), (s, t) = starts, blocks, self.steps
        found = found[:, :, top : top + down, left : left + across].permute(0, 2, 3, 1)
        pixels = found.reshape(-1, down, across, s, t, shape[1]).transpose(2, 3)
        return pixels.reshape(-1, down * s, across * t, shape[1])[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)


def _has_phases(weight: Tensor, geometry: Geometry) -> bool:
    """Few channels, stepped over: where one convolution for all phases pays."""
    is_plain = geometry.groups == 1 and tuple(geometry.dilation) == (1, 1)
    return is_plain and weight.shape[1] <= FEW and max(geometry.stride) > 1
