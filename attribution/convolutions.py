"""Convolutions as a core or a GPU does them fastest: sum and rectifier behind them in the same pass over memory, the gradient of few channels at once.

A torch function mode sees `conv2d`, as of torch's own, or `fused_conv2d`; rules, which have none for that, take it in the
steps of the model as given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import inf
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from attribution import cores, native
from attribution.arithmetic import BF16X3, arithmetic
from attribution.clamp import hardtanh_
from attribution.geometry import Ends, Geometry, Sizes, is_depthwise
from attribution.handing import Hands, gated, handed, take_for, taker_of, was_gated
from attribution.phases import has_phases, phases_of

FUSED = frozenset({torch.float32, torch.bfloat16})
"""Types for which oneDNN has all in one pass."""

Whole = tuple[Sizes, Sizes, Sizes, int, Ends | None, Tensor | None]
"""A convolution's geometry, its rectifier's ends, and what is added before that."""


@cache
def can_fuse() -> bool:
    """Whether torch was built with convolutions that rectify; it uses them itself, under a private name, in what it compiles."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return is_there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: *tuple[Sizes, Sizes, Sizes, int]) -> Tensor:
    """Torch's function of that name, which torch function modes take it for, with our gradient.  geometry: see Geometry"""
    if has_torch_function((x,)):
        seen: Tensor = handle_torch_function(conv2d, (x,), x, weight, bias, *geometry)
        return seen
    if not is_ours(x, weight):
        return functional.conv2d(x, weight, bias, *geometry)
    return _convolved(x, weight, bias, Geometry(*geometry), None, None)


def fused_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry_and_rest: *Whole) -> Tensor:
    """Clamp(conv2d(x, weight, bias, *geometry) + added, *ends), with what of both there is."""
    if has_torch_function((x,)):
        seen: Tensor = handle_torch_function(fused_conv2d, (x,), x, weight, bias, *geometry_and_rest)
        return seen
    if not is_ours(x, weight):
        return in_steps(x, weight, bias, *geometry_and_rest)
    geometry, (ends, added) = geometry_and_rest[:4], geometry_and_rest[4:]
    return _convolved(x, weight, bias, Geometry(*geometry), ends, added)


def in_steps(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry_and_rest: *Whole) -> Tensor:
    """`fused_conv2d` as calls of their own, which a mode sees."""
    geometry, (ends, added) = geometry_and_rest[:4], geometry_and_rest[4:]
    y = conv2d(x, weight, bias, *geometry)
    if added is not None:
        y += added
    if ends is None:
        return y
    if torch.compiler.is_compiling():
        return functional.hardtanh(y, *ends)
    return functional.relu(y, inplace=True) if ends == (0, inf) else hardtanh_(y, *ends)


def is_ours(x: Tensor, weight: Tensor) -> bool:
    """Whether weights are frozen; a compiler decides itself what it puts together."""
    return (x.is_cpu or x.is_cuda) and not weight.requires_grad and not torch.compiler.is_compiling()


def _kernels(x: Tensor, weight: Tensor, geometry: Geometry) -> ModuleType | None:
    """The kernels for a GPU, or the products of cores with tiles, if they are for this."""
    if not arithmetic.by_kernels:
        return None
    if not is_on_gpu(x):
        return cores if arithmetic.bf16x3 and cores.can(x, weight, geometry) else None
    if (kernels := on_gpu(x.device)) is None:
        return None
    is_exact = x.dtype is torch.float32 and not arithmetic.bf16x3
    if x.dtype is torch.float64 or (is_exact and not is_depthwise(weight, geometry.groups)):
        return None
    return kernels if kernels.can(x, weight, geometry) else None


def is_on_gpu(x: Tensor) -> bool:
    """Whether it lies where kernels are for."""
    return x.is_cuda


on_gpu: Callable[[torch.device], ModuleType | None] = partial(native.kernels_on_gpu, "convolutions")
"""`gpu.convolutions`, where Triton can compile for this GPU."""


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, ends: Ends | None, added: Tensor | None
) -> Tensor:
    if not (torch.is_grad_enabled() and (x.requires_grad or (added is not None and added.requires_grad))):
        return _forward(_kernels(x, weight, geometry), x, weight, bias, geometry, ends, added)
    y: Tensor = Convolved.apply(x, weight, bias, geometry, ends, added)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


def _forward(
    kernels: ModuleType | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    ends: Ends | None = None,
    added: Tensor | None = None,
    terms: int = BF16X3,
) -> Tensor:
    if kernels is not None and (added is None or kernels.can_add(weight, geometry)):
        y: Tensor = kernels.convolve(x, weight, bias, geometry, ends, terms, added)
        return y
    if ends is None and added is None:
        return functional.conv2d(x, weight, bias, *geometry)
    if not x.is_cpu or x.dtype not in FUSED or not len(x) or not can_fuse():
        return in_steps(x, weight, bias, *geometry, ends, added)
    steps, sides, holes = map(list, geometry[:3])
    where = sides, steps, holes, geometry.groups
    if added is None:
        operation, numbers = ("relu", []) if ends == (0, inf) else ("hardtanh", list(ends or ()))
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *where, operation, numbers, "")  # noqa: SLF001  # see can_fuse
        return fused
    # The only one that there is behind a sum, and where the maps lie otherwise than oneDNN wants them of float32 alone.
    rectifier = "relu" if x.dtype == torch.float32 and ends == (0, inf) else None
    total: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(  # noqa: SLF001  # see can_fuse
        x, added, weight, bias, *where, "add", None, rectifier, [], ""
    )
    return total if ends is None or rectifier is not None else total.clamp_(*ends)


class Convolved(torch.autograd.Function):
    """A convolution by constant weights, perhaps a sum with another tensor, and a rectifier. It holds its output where that
    is rectified, and not its input as torch's own does.

    In kernels of ours the gradient that it makes is added up and gated in the same pass over memory, see `handing`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        ends: Ends | None,
        added: Tensor | None,
    ) -> Tensor:
        """(n, c, h, w) -> (n, k, h', w'), as `added`"""
        kernels = _kernels(x, weight, geometry)
        y = _forward(kernels, x, weight, bias, geometry, ends, added)
        if kernels is None or has_phases(weight, geometry) or not kernels.can_pull_back(geometry):
            kernels = None
        ctx.kernels, ctx.hands, ctx.takers, ctx.gate = kernels, None, (None, None), None
        if kernels is not None:
            ctx.takers = taker_of(x), taker_of(added)
            if kernels.can_add(weight, geometry):
                ctx.hands = Hands()
            if ctx.takers[0] is None:
                take_for(x, ctx)
                ctx.gate = ends_of(x)
        ctx.save_for_backward(weight, *(() if ends is None else (y,)), *(() if ctx.gate is None else (x,)))
        ctx.geometry, ctx.ends, ctx.layout, ctx.is_sum = geometry, ends, (x.shape, x.stride()), added is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """What torch's own gradient of the input is, up to the order of its sums; and of what was added, the gradient itself."""
        weight, *held = ctx.saved_tensors
        if not was_gated(gradient) and ctx.ends is not None:
            gradient = _through(ctx.ends, held[0], gradient)
        found = behind = None
        if ctx.is_sum and ctx.needs_input_grad[5]:
            behind = handed(gradient, ctx, -1, ctx.takers[1])
        if ctx.needs_input_grad[0]:
            found = handed(Convolved._pulled_back(ctx, gradient, weight, held), ctx, 0, ctx.takers[0])
        return found, None, None, None, None, behind

    @staticmethod
    def _pulled_back(ctx: Any, gradient: Tensor, weight: Tensor, held: Sequence[Tensor]) -> Tensor:
        if ctx.kernels is None:
            return gradient_of_input(gradient, weight, ctx.geometry, *ctx.layout)
        gate = () if ctx.gate is None else (held[-1], ctx.gate)
        part = None if ctx.hands is None else ctx.hands.taken()
        terms = arithmetic.gradient_terms
        found: Tensor = ctx.kernels.pulled_back(gradient, weight, ctx.geometry, ctx.layout[0], terms, *gate, added=part)
        return gated(found) if gate else found


def ends_of(t: Tensor) -> Ends | None:
    """Between which the convolution of ours that made t has rectified it, if so: what its node lets pass, a reader's may."""
    is_made_so = getattr(t.grad_fn, "_forward_cls", None) is Convolved
    ends: Ends | None = t.grad_fn.ends if is_made_so else None  # type: ignore[union-attr]  # such a node has them
    return ends


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
    kernels = _kernels(gradient, kernel, geometry)
    return _forward(kernels, gradient, kernel, None, geometry, terms=arithmetic.gradient_terms)
