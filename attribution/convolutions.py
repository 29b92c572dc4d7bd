"""Convolutions as a core does them fastest: the rectifier behind them in the same pass over memory, the gradient of few channels at once.

A torch function mode sees of them what it saw of the model as given, a convolution and then a rectifier: rules and patches have
both. So does a compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import has_torch_function

Ends = tuple[float, float]
"""Between which a rectifier keeps its input: (0, inf) for ReLU, (0, 6) for ReLU6."""

FUSED = frozenset({torch.float32, torch.bfloat16})
"""Types for which oneDNN has both in one pass."""

FEW = 4
"""Channels of the input: a library made for tens of them leaves most of its registers empty."""


def can_fuse() -> bool:
    """Whether torch was built with convolutions that rectify; it uses them itself, under a private name, in what it compiles."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return is_there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class Convolution(nn.Conv2d):
    """A convolution of zero-padded maps with frozen weights, and the rectifier that comes next, if `ends` are given."""

    ends: Ends | None
    phases: Phases | None
    """Made for the first gradient."""

    @classmethod
    def of(cls, convolution: nn.Conv2d, ends: Ends | None) -> Convolution:
        """The same convolution, its weights and its name in the model."""
        ours = cls.__new__(cls)
        ours.__dict__.update(convolution.__dict__)
        ours.ends, ours.phases = ends, None
        return ours

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, k, h', w'); marked as rectified where it is."""
        is_plain = x.is_cpu and not torch.compiler.is_compiling() and not has_torch_function((x,))
        if not is_plain or self.weight.requires_grad or not x.numel():
            return self._convolved(x)
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Convolved.apply(x, self)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        else:
            y = self.rectified(x)
        if self.ends is not None:
            y.is_rectified = True  # type: ignore[attr-defined]  # what Rectifier asks for
        return y

    def rectified(self, x: Tensor) -> Tensor:
        """The forward pass."""
        if self.ends is None:
            return self._convolved(x)
        if x.dtype not in FUSED or not can_fuse():
            return functional.hardtanh(self._convolved(x), *self.ends, inplace=True)
        operation, numbers = ("relu", []) if self.ends == (0, inf) else ("hardtanh", list(self.ends))
        sides, steps, holes = map(list, (self.padding, self.stride, self.dilation))
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001  # see can_fuse
            x, self.weight, self.bias, sides, steps, holes, self.groups, operation, numbers, ""
        )
        return y

    def pulled_back(self, gradient: Tensor, y: Tensor, like: Tensor) -> Tensor:
        """The input's gradient, from that of the output y.  `like` the input, of which only the shape is read"""
        if self.ends is not None:
            low, high = self.ends
            aten = torch.ops.aten
            gradient = (
                aten.threshold_backward(gradient, y, low)
                if high == inf
                else aten.hardtanh_backward(gradient, y, low, high)
            )
        if not has_phases(self):
            geometry = self.stride, self.padding, self.dilation, False, (0, 0), self.groups
            found: Tensor = torch.ops.aten.convolution_backward(
                gradient, like, self.weight, None, *geometry, (True, False, False)
            )[0]
            return found
        if self.phases is None or self.phases.kernel.dtype != self.weight.dtype:
            self.phases = Phases.of(self)
        return self.phases.pulled_back(gradient, like.shape)

    def _convolved(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Rectifier(nn.Module):
    """A rectifier that leaves alone what a convolution has rectified for it."""

    def __init__(self, rectifier: nn.Module) -> None:
        super().__init__()
        self._rectify = rectifier.forward  # and not the module, which would be another name in the model

    def forward(self, x: Tensor) -> Tensor:
        """The rectifier's result for whatever else it is called with."""
        if getattr(x, "is_rectified", False):
            return x
        y: Tensor = self._rectify(x)
        return y


class _Convolved(torch.autograd.Function):
    """Holds the output for the backward pass, and not the input as torch's own does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: Convolution) -> Tensor:
        y = convolution.rectified(x)
        if convolution.ends is not None:
            ctx.save_for_backward(y)
        ctx.convolution, ctx.layout = convolution, (x.shape, x.stride())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors or (gradient,)
        like = gradient.new_empty_strided(*ctx.layout)  # memory that nobody touches
        return ctx.convolution.pulled_back(gradient, y, like), None


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
    def of(cls, convolution: nn.Conv2d) -> Phases:
        """Sort the kernel's places by the phase of the pixels that they meet."""
        weight, counts, firsts = convolution.weight.detach(), list[int](), list[int]()
        for size, step, padding in zip(weight.shape[2:], convolution.stride, convolution.padding, strict=True):
            assert isinstance(padding, int)
            # Pixel s i + p meets output i + d at the kernel's place p + padding - s d.
            first, last = -((size - 1 - padding) // step), (step - 1 + padding) // step
            count = last - first + 1
            before = step * last - padding
            weight = functional.pad(weight.transpose(2, 3), (before, count * step - size - before))
            counts.append(count)
            firsts.append(first)
        (down, across), (s, t) = counts, convolution.stride
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


def has_phases(convolution: nn.Conv2d) -> bool:
    """Few channels, stepped over: where one convolution for all phases pays."""
    is_plain = convolution.groups == 1 and tuple(convolution.dilation) == (1, 1)
    return is_plain and convolution.in_channels <= FEW and max(convolution.stride) > 1
