"""A rectifier with two ends that writes over its input: torch's own, in place, keeps a copy to take its derivative by."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function


class InPlaceHardtanh(nn.Hardtanh):
    """ReLU6 or hardtanh, written over its input. `is_read_once`: nobody else reads that, before or after."""

    def __init__(self, min_val: float, max_val: float, *, is_read_once: bool) -> None:
        super().__init__(min_val, max_val, inplace=True)
        self.is_read_once = is_read_once

    def forward(self, x: Tensor) -> Tensor:
        """min(max(x, min_val), max_val), written over x."""
        if torch.compiler.is_compiling():  # a compiler decides itself what it keeps
            return functional.hardtanh(x, self.min_val, self.max_val, inplace=not self.is_read_once)
        if self.is_read_once or not has_torch_function((x,)):
            return hardtanh_(x, self.min_val, self.max_val)
        return super().forward(x)  # the model may go on with x itself


def hardtanh_(x: Tensor, min_val: float, max_val: float) -> Tensor:
    """The same as a call that torch function modes see: rules may leave x as it is, since nobody but them reads it again."""
    if has_torch_function((x,)):
        seen: Tensor = handle_torch_function(hardtanh_, (x,), x, min_val, max_val)
        return seen
    if x.requires_grad and torch.is_grad_enabled():
        clamped: Tensor = _Clamp.apply(x, min_val, max_val)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return clamped
    return functional.hardtanh(x, min_val, max_val, inplace=True)


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(low, high))
        ctx.ends = low, high
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The slope is 1 between the ends and 0 at and beyond them, which the result tells as well as the input."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, y, *ctx.ends), None, None
