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
