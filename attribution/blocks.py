"""Several elementwise steps over large arrays, a piece at a time, so that what lies between the steps stays in the cache.

On a CPU an elementwise step takes as long as its arrays take to come from memory; a rule of six steps would take them
there and back six times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1 << 16
"""Numbers a piece and thread: five such arrays of float32 are 1.3 MB, about what a core's second cache holds."""

Write = Callable[..., None]
"""(output, *inputs): writes into the output what it makes of the inputs, place by place; reads an input that is the output first."""


def write_into(output: Tensor, write: Write, *inputs: Tensor) -> None:
    """`write(output, *inputs)`, a piece at a time where the output is large and lies in memory row after row."""
    piece, layout = BLOCK * torch.get_num_threads(), layout_of(output)
    if output.device.type != "cpu" or output.numel() <= piece or layout is None:
        write(output, *inputs)
        return
    rows, width = len(output), output[0].numel()
    # Whole vectors of the processor: what is left over at an end is computed by other instructions.
    length = max(64, piece // rows // 64 * 64)
    count = -(-width // length)
    pieces = [
        torch.split(flat(t, output, layout), length, 1) if t.numel() > 1 else [t.reshape(1, 1)] * count
        for t in (output, *inputs)
    ]
    for several in zip(*pieces, strict=True):
        write(*several)


def moved(t: Tensor, overwrite: Callable[[Tensor], object]) -> Tensor:
    """A copy of t, which is then overwritten, while each piece is still in the cache."""

    def write(copy: Tensor, piece: Tensor) -> None:
        copy.copy_(piece)
        overwrite(piece)

    copy = torch.empty_like(t)
    if layout_of(t) is None:
        write(copy, t)
    else:
        write_into(copy, write, t)
    return copy


def layout_of(t: Tensor) -> torch.memory_format | None:
    """The order in which the tensor's rows lie one behind the other, if they do."""
    if t.dim() > 1 and t.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) else None


def flat(t: Tensor, like: Tensor, layout: torch.memory_format) -> Tensor:
    """A view (rows or 1, numbers of a row as they lie in `like`); of a copy where they lie otherwise."""
    if len(t) == 1 or t.stride(0) == 0:
        t = t[:1]
    if t.shape[1:] != like.shape[1:]:
        t = t.expand_as(like)
    if not t.is_contiguous(memory_format=layout):
        t = t.contiguous(memory_format=layout)
    width = like[0].numel()
    return t.as_strided((len(t), width), (width, 1))
