"""How a convolution goes over its input, and what a rectifier behind it lets pass."""

from __future__ import annotations

from typing import NamedTuple

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
