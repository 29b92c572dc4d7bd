"""Max-pools as a GPU does them fastest: which place won is kept as one byte, and the rectifier before gates in the same pass over memory.

A torch function mode sees `max_pool2d`, as of torch's own, which it is wherever there are no kernels of ours for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from attribution import native
from attribution.arithmetic import arithmetic
from attribution.convolutions import ends_of
from attribution.geometry import Ends, Window, pair
from attribution.handing import gated, handed, taker_of

ROUNDED = frozenset({torch.float32, torch.float16, torch.bfloat16})
"""Types whose gradients are summed in float32."""


class MaxPool(nn.MaxPool2d):
    """A max-pool that gives no places."""

    @classmethod
    def of(cls, pool: nn.MaxPool2d) -> MaxPool:
        """The same max-pool, and its name in the model."""
        ours = cls.__new__(cls)
        ours.__dict__.update(pool.__dict__)
        return ours

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h', w')"""
        return max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


Size = int | Sequence[int]


def max_pool2d(
    x: Tensor, kernel_size: Size, stride: Size, padding: Size = 0, dilation: Size = 1, ceil_mode: bool = False
) -> Tensor:
    """Torch's function of that name, which torch function modes take it for.  (n, c, h, w) -> (n, c, h', w')"""
    if has_torch_function((x,)):
        seen: Tensor = handle_torch_function(max_pool2d, (x,), x, kernel_size, stride, padding, dilation, ceil_mode)
        return seen
    window = Window(pair(kernel_size), pair(stride), pair(padding), pair(dilation), ceil_mode)
    kernels = _kernels(x, window)
    if kernels is None:
        plain: Tensor = functional.max_pool2d(x, *window)
        return plain
    if not (torch.is_grad_enabled() and x.requires_grad):
        y: Tensor = kernels.pool(x, window)
        return y
    pooled: Tensor = Pooled.apply(x, window, kernels, ends_of(x))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return pooled


class Pooled(torch.autograd.Function):
    """A max-pool of which neither input nor output is held, but a byte for each place of the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window, kernels: ModuleType, gate: Ends | None) -> Tensor:
        """(n, c, h, w) -> (n, c, h', w').  gate: the ends of the convolution that made x and will let its gradient pass"""
        y: Tensor
        y, taps = kernels.pool_and_taps(x, window, gate)
        ctx.save_for_backward(taps)
        ctx.window, ctx.kernels, ctx.is_gated, ctx.shape = window, kernels, gate is not None, x.shape
        ctx.taker = taker_of(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """What torch's own gradient of the input is, up to the order of its sums."""
        found = ctx.kernels.pulled_back(gradient, *ctx.saved_tensors, ctx.window, ctx.shape)
        return handed(gated(found) if ctx.is_gated else found, ctx, 0, ctx.taker), None, None, None


def _kernels(x: Tensor, window: Window) -> ModuleType | None:
    """The kernels for a GPU, if they are for this; a compiler decides itself what it puts together."""
    if not (is_on_gpu(x) and arithmetic.by_kernels and x.dtype in ROUNDED) or torch.compiler.is_compiling():
        return None
    kernels = on_gpu(x.device)
    return kernels if kernels is not None and kernels.can(x, window) else None


def is_on_gpu(x: Tensor) -> bool:
    """Whether it lies where kernels are for."""
    return x.is_cuda


on_gpu: Callable[[torch.device], ModuleType | None] = partial(native.kernels_on_gpu, "pooling")
"""`gpu.pooling`, where Triton can compile for this GPU."""
