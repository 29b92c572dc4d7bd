"""A mode that sees the calls of a pass, and looks away while the engine makes calls of its own in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Watching(TorchFunctionMode):
    """What is called while it is aside is no part of the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aside = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Calls of the engine's own."""
        self.is_aside = True
        try:
            yield
        finally:
            self.is_aside = False


def placeholder_for(tensor: Tensor) -> Tensor:
    """A tensor of the same shape that holds NaN and no memory: a call that no mode has seen carries it to the output."""
    nothing = _nothing.__wrapped__ if tensor.numel() == 1 else _nothing  # a single number can be written over
    return nothing(tensor.dtype, tensor.device).expand(tensor.shape)


@cache
def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    number: float = float("nan") if dtype.is_floating_point or dtype.is_complex else 0
    return torch.full((), number, dtype=dtype, device=device)
