"""A mode that sees the calls of a pass, and looks away while the engine makes calls of its own in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    number: float = float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0
    return torch.full((), number, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
