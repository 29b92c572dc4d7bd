"""Convolutions as a core or a GPU does them fastest: the rectifier behind them in the same pass over memory, the gradient of few channels at once.

A torch function mode sees `conv2d`, as of torch's own, or `rectified_conv2d`; rules, which have none for that, take it in the
two steps of the model as given.
"""

from __future__ import annotations

from functools import cache
from math import inf
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from attribution import native
from attribution.arithmetic import BF16X3, arithmetic
from attribution.clamp import hardtanh_
from attribution.geometry import Ends, Geometry, Sizes
from attribution.phases import has_phases, phases_of

FUSED = frozenset({torch.float32, torch.bfloat16})
"""Types for which oneDNN has both in one pass."""


@cache
def can_fuse() -> bool:
    """Whether torch was built with convolutions that rectify; it uses them itself, under a private name, in what it compiles."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return is_there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


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
    """Whether weights are frozen; a compiler decides itself what it puts together."""
    return (x.is_cpu or x.is_cuda) and not weight.requires_grad and not torch.compiler.is_compiling()


def _kernels(x: Tensor, weight: Tensor, geometry: Geometry) -> ModuleType | None:
    """The kernels for a GPU, if they are for this."""
    if not (is_on_gpu(x) and arithmetic.by_kernels) or (kernels := on_gpu(x.device)) is None:
        return None
    is_exact = x.dtype is torch.float32 and not arithmetic.bf16x3
    if x.dtype is torch.float64 or (is_exact and not kernels.is_depthwise(weight, geometry.groups)):
        return None
    return kernels if kernels.can(x, weight, geometry) else None


def is_on_gpu(x: Tensor) -> bool:
    """Whether it lies where kernels are for."""
    return x.is_cuda


@cache
def on_gpu(device: torch.device) -> ModuleType | None:
    """`gpu.convolutions`, where Triton can compile for this GPU."""
    if native.on_gpu(device) is None:
        return None
    from attribution.gpu import convolutions as kernels  # no core needs Triton

    return kernels


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, ends: Ends | None) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _forward(x, weight, bias, geometry, ends)
    y: Tensor = Convolved.apply(x, weight, bias, geometry, ends, _gate_of(x, weight, geometry))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, ends: Ends | None, terms: int = BF16X3
) -> Tensor:
    if (kernels := _kernels(x, weight, geometry)) is not None:
        y: Tensor = kernels.convolve(x, weight, bias, geometry, ends, terms)
        return y
    if ends is None:
        return functional.conv2d(x, weight, bias, *geometry)
    if not x.is_cpu or x.dtype not in FUSED or not len(x) or not can_fuse():
        return in_steps(x, weight, bias, *geometry, ends)
    operation, numbers = ("relu", []) if ends == (0, inf) else ("hardtanh", list(ends))
    steps, sides, holes = map(list, geometry[:3])
    fused: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001  # see can_fuse
        x, weight, bias, sides, steps, holes, geometry.groups, operation, numbers, ""
    )
    return fused


class Convolved(torch.autograd.Function):
    """A convolution by constant weights. It holds its output where that is rectified, and not its input as torch's own does.

    On a GPU the gradient that it hands to another one of its kind is gated there already, in the pass over memory that makes it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        ends: Ends | None,
        gate: Ends | None,
    ) -> Tensor:
        """(n, c, h, w) -> (n, k, h', w').  gate: the ends of the convolution that made x and will let its gradient pass"""
        y = _forward(x, weight, bias, geometry, ends)
        ctx.save_for_backward(weight, *(() if ends is None else (y,)), *(() if gate is None else (x,)))
        ctx.geometry, ctx.ends, ctx.gate, ctx.layout = geometry, ends, gate, (x.shape, x.stride())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """What torch's own gradient of the input is, up to the order of its sums."""
        weight, *held = ctx.saved_tensors
        if ctx.ends is not None and not _is_gated(gradient):
            gradient = _through(ctx.ends, held[0], gradient)
        if ctx.gate is None:
            found = gradient_of_input(gradient, weight, ctx.geometry, *ctx.layout)
        else:
            kernels, terms = on_gpu(gradient.device), arithmetic.gradient_terms
            assert kernels is not None
            found = kernels.pulled_back(gradient, weight, ctx.geometry, ctx.layout[0], terms, held[-1], ctx.gate)
            found.gated_at = found._version  # noqa: SLF001  # as long as nobody adds to it, in place or otherwise
        return found, None, None, None, None, None


def _gate_of(x: Tensor, weight: Tensor, geometry: Geometry) -> Ends | None:
    """The ends of the rectifying convolution of ours that made x: what its own node lets pass, this one's kernel may."""
    node: Any = x.grad_fn
    if node is None or getattr(node, "_forward_cls", None) is not Convolved:
        return None
    kernels = _kernels(x, weight, geometry)
    ends: Ends | None = node.ends
    return ends if kernels is not None and kernels.can_pull_back(geometry) else None


def _is_gated(gradient: Tensor) -> bool:
    """Whether this is still what one of our kernels made, and nothing else flows into it."""
    return getattr(gradient, "gated_at", None) == gradient._version  # noqa: SLF001  # torch has no public name for it


def gradient_of_input(
    gradient: Tensor, weight: Tensor, geometry: Geometry, shape: torch.Size, stride: tuple[int, ...]
) -> Tensor:
    """What the gradient of a convolution's output comes to at its input, which has this shape and lies in these strides."""
    if has_phases(weight, geometry):
        return phases_of(weight, geometry).pulled_back(gradient, shape, _of_gradients)
    if (kernels := _kernels(gradient, weight, geometry)) is not None and kernels.can_pull_back(geometry):
        pulled: Tensor = kernels.pulled_back(gradient, weight, geometry, shape, arithmetic.gradient_terms)
        return pulled
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


def _of_gradients(gradient: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    return _forward(gradient, kernel, None, geometry, None, arithmetic.gradient_terms)
