"""How a convolution or a pool goes over its input, and what a rectifier behind it lets pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Ends = tuple[float, float]
"""Between which a rectifier keeps its input: (0, inf) for ReLU, (0, 6) for ReLU6."""

Sizes = tuple[int, ...]
"""By rows and by columns."""


class Geometry(NamedTuple):
    """Of a convolution of zero-padded maps."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    def sizes(self, extents: Sizes, kernel: Sizes) -> Sizes:
        """Rows and columns of what it puts out, of maps of these extents."""
        each = zip(extents, kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((extent + 2 * pad - hole * (size - 1) - 1) // step + 1 for extent, size, step, pad, hole in each)


class Window(NamedTuple):
    """Of a max-pool."""

    size: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    ceil_mode: bool

    def outputs(self, extents: Sequence[int]) -> list[int]:
        """How often it fits into a map of these (rows, columns); in ceil_mode it may reach beyond the far edge, not begin there."""
        counts = []
        for extent, size, step, pad, hole in zip(extents, *self[:4], strict=True):
            left = extent + 2 * pad - hole * (size - 1) - 1
            count = left // step + 1
            if self.ceil_mode and left % step and count * step < extent + pad:
                count += 1
            counts.append(count)
        return counts


def pair(value: int | Sequence[int]) -> Sizes:
    """By rows and by columns, of what torch takes for that."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * 2 if len(given) == 1 else given


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel is convolved by one kernel of its own."""
    return groups == len(weight) > 1 and weight.shape[1] == 1
