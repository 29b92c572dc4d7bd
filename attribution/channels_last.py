"""Maps whose channels lie side by side, pixel by pixel, as convolutions of ours read and write them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def empty(like: Tensor, channels: int, sizes: Sequence[int]) -> Tensor:
    """Nothing written yet: as many images of the same type, in the same place.  -> (n, channels, *sizes)"""
    shape = (len(like), channels, *sizes)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def last(t: Tensor) -> Tensor:
    """The same numbers, copied if they lie otherwise."""
    return t.contiguous(memory_format=torch.channels_last)
