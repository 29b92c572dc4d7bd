"""Which features are perturbed together."""

from collections.abc import Iterator
from itertools import product
from math import ceil

from attribution.errors import AttributionError

Window = tuple[slice, ...]
"""An index into (N, *features): all rows, and a box of the features."""


def sliding_windows(
    shape: tuple[int, ...], window: int | tuple[int, ...], stride: int | tuple[int, ...]
) -> Iterator[Window]:
    """Boxes of size `window` every `stride`; the last of each dimension ends at the edge and may be smaller.

    shape without the rows, e.g. (C, H, W). A number, or fewer sizes than dimensions, speaks of the last dimensions, and the
    first ones are covered whole.
    """
    sizes = _per_dimension(shape, window, whole=shape)
    steps = _per_dimension(shape, stride, whole=shape)
    for size, step, extent in zip(sizes, steps, shape, strict=True):
        if size < 1 or step < 1 or (step > size and size < extent):
            raise AttributionError(
                f"window {window} with stride {stride} leaves gaps: a stride is 1 to the window's size"
            )
    starts = [
        [i * step for i in range(max(0, ceil((extent - size) / step)) + 1)]
        for size, step, extent in zip(sizes, steps, shape, strict=True)
    ]
    for corner in product(*starts):
        box = zip(corner, sizes, shape, strict=True)
        yield (slice(None), *(slice(start, min(start + size, extent)) for start, size, extent in box))


def _per_dimension(shape: tuple[int, ...], value: int | tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    given = value if isinstance(value, tuple) else (value,) * min(2, len(shape))
    if len(given) > len(shape):
        raise AttributionError(f"{value} has more sizes than the features' {len(shape)} dimensions {shape}")
    return (*whole[: len(shape) - len(given)], *given)
