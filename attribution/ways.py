"""How products on cores go over an image: rows and columns each by themselves, which phase a place of a kernel reads and how far on.

`products.c` walks as it is told here, for a convolution and for its gradient.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from attribution.geometry import Geometry, Sizes

DEPTH, WIDTH = 32, 32
"""Channels that a tile takes of what is read, and two tiles of what is written."""

PIECE = 32
"""Positions that are multiplied at a time."""

SCRATCH = 3 << 18
"""Bytes of planes that a thread keeps, beside weights, in a second cache of 2 MiB."""

BAND = 3 << 17
"""Bytes that it reads, keeps and writes at a time, where taps don't ask for more: all of that stays in the cache, too."""

LEAST, HALO = 4 * PIECE, 16
"""Positions for which weights are worth fetching, and how many times what taps reach beyond, which is read twice."""


class Tap(NamedTuple):
    """One place of a kernel along rows or columns: the phase that it reads and, in that, how far from what is written."""

    place: int
    phase: int
    offset: int


class Axis(NamedTuple):
    """How a convolution, or its gradient, goes along rows or columns."""

    taps: tuple[tuple[Tap, ...], ...]
    """For each phase of what is written."""
    lead: int
    """Zeros in front."""
    step: int
    """Between what neighbours read."""

    @property
    def to_step(self) -> int:
        """Between what neighbours write: there is a phase for each."""
        return len(self.taps)

    @property
    def reach(self) -> int:
        """The largest offset."""
        return max((tap.offset for taps in self.taps for tap in taps), default=0)

    def met(self, written: int, extent: int) -> list[tuple[int, int]]:
        """The places that read for this written number something of `extent`, and what."""
        first, phase = divmod(written, self.to_step)
        met = [(tap.place, (first + tap.offset - self.lead) * self.step + tap.phase) for tap in self.taps[phase]]
        return [(place, read) for place, read in met if 0 <= read < extent]

    def plane(self, extent: int, to_extent: int) -> int:
        """How many positions an image takes: zeros behind one are those in front of the next."""
        written = -(-to_extent // self.to_step)
        behind = written + self.reach - self.lead - -(-extent // self.step)
        return written + self.reach - max(0, min(self.lead, self.reach, behind))


PLAIN = Axis(((Tap(0, 0, 0),),), lead=0, step=1)
"""One number after the other: of such convolutions all pixels of all images are one row."""


def forward_along(size: int, step: int, padding: int, hole: int) -> Axis:
    """Output i meets pixel s i + e at each place, e = s m + q: in phase q the (i + m)th."""
    met = [divmod(place * hole - padding, step) for place in range(size)]
    lead = -min(m for m, _ in met)
    return Axis((tuple(Tap(place, q, m + lead) for place, (m, q) in enumerate(met)),), lead, step)


def back_along(size: int, step: int, padding: int, hole: int) -> Axis:
    """Pixel s i + p was met by output i + m at the places that leave (p + padding - hole * place) = s m."""
    met = [
        [
            (place, (phase + padding - place * hole) // step)
            for place in range(size)
            if not (phase + padding - place * hole) % step
        ]
        for phase in range(step)
    ]
    lead = max(0, *(-m for taps in met for _, m in taps), 0)
    return Axis(tuple(tuple(Tap(place, 0, m + lead) for place, m in taps) for taps in met), lead, 1)


def axes(along: Callable[[int, int, int, int], Axis], kernel: Sizes, geometry: Geometry) -> tuple[Axis, Axis]:
    """By rows and by columns."""
    rows, columns = map(along, kernel, geometry.stride, geometry.padding, geometry.dilation)
    return rows, columns


class Way(ctypes.Structure):
    """The struct of that name in products.c, which says what its fields are."""

    NUMBERS = (
        *("images", "rows", "columns", "channels", "to_rows", "to_columns", "to_channels", "step_h", "step_w"),
        *("lead_h", "lead_w", "plane_rows", "plane_columns", "to_step_h", "to_step_w", "planes", "groups", "reach"),
        "length",
    )
    ARRAYS = ("firsts", "written", "taps")
    _fields_ = (
        *((name, ctypes.c_int64) for name in NUMBERS),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ARRAYS),
    )


@lru_cache(maxsize=4096)
def way_forward(shape: Sizes, to_shape: Sizes, kernel: Sizes, geometry: Geometry, terms: int) -> Way:
    """Of a convolution of these shapes, (n, c, h, w) -> (n, k, h', w')."""
    return _way(shape, to_shape, axes(forward_along, kernel, geometry), terms)


@lru_cache(maxsize=4096)
def way_back(shape: Sizes, to_shape: Sizes, kernel: Sizes, geometry: Geometry, terms: int) -> Way:
    """Of its gradient, (n, k, h', w') -> (n, c, h, w)."""
    return _way(shape, to_shape, axes(back_along, kernel, geometry), terms)


def _way(shape: Sizes, to_shape: Sizes, by: tuple[Axis, Axis], terms: int) -> Way:
    images, channels, rows, columns = shape
    _, to_channels, to_rows, to_columns = to_shape
    if by == (PLAIN, PLAIN):
        images, rows, columns, to_rows, to_columns = 1, 1, images * rows * columns, 1, images * rows * columns
    down, across = by
    plane_rows, plane_columns = down.plane(rows, to_rows), across.plane(columns, to_columns)
    groups = list(product(down.taps, across.taps))
    pairs = [list(product(*group)) for group in groups]
    planes = sorted({(a.phase, b.phase) for group in pairs for a, b in group}) or [(0, 0)]
    taps = [
        (planes.index((a.phase, b.phase)), a.offset * plane_columns + b.offset) for group in pairs for a, b in group
    ]
    firsts = product(range(down.to_step), range(across.to_step))
    written = [(*first, len(group)) for first, group in zip(firsts, pairs, strict=True)]
    reach = max((offset for _, offset in taps), default=0)
    width = len(planes) * -(-channels // DEPTH) * DEPTH * 2 * (2 if terms > 1 else 1)
    moved = width + 4 * (len(planes) * channels + len(groups) * to_channels)
    positions = images * plane_rows * plane_columns
    most = max(LEAST, min(SCRATCH // width - reach, max(BAND // moved, HALO * reach)))
    length = -(-positions // -(-positions // most))  # bands alike
    numbers = (
        *(images, rows, columns, channels, to_rows, to_columns, to_channels, down.step, across.step),
        *(down.lead, across.lead, plane_rows, plane_columns, down.to_step, across.to_step),
        *(len(planes), len(groups), reach, -(-length // PIECE) * PIECE),
    )
    arrays = [_array(part) for part in (planes, written, taps)]
    return Way(*numbers, *arrays)


class Sweep(ctypes.Structure):
    """The struct of that name in products.c: a depthwise convolution's way, or its gradient's."""

    NUMBERS = ("images", "rows", "columns", "channels", "to_rows", "to_columns", "down", "across", "step", "to_step")
    _fields_ = (
        *((name, ctypes.c_int64) for name in NUMBERS),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("by_rows", "by_columns")),
    )


@lru_cache(maxsize=4096)
def sweep_forward(shape: Sizes, to_shape: Sizes, kernel: Sizes, geometry: Geometry) -> Sweep:
    """Of a depthwise convolution of these shapes."""
    return _sweep(shape, to_shape, kernel, axes(forward_along, kernel, geometry))


@lru_cache(maxsize=4096)
def sweep_back(shape: Sizes, to_shape: Sizes, kernel: Sizes, geometry: Geometry) -> Sweep:
    """Of its gradient."""
    return _sweep(shape, to_shape, kernel, axes(back_along, kernel, geometry))


def _sweep(shape: Sizes, to_shape: Sizes, kernel: Sizes, by: tuple[Axis, Axis]) -> Sweep:
    images, channels, *extents = shape
    to_extents = to_shape[2:]
    each = zip(by, extents, to_extents, kernel, strict=True)
    met = [
        [_counted(axis.met(written, extent), size) for written in range(to_extent)]
        for axis, extent, to_extent, size in each
    ]
    return Sweep(images, *extents, channels, *to_extents, *kernel, by[1].step, by[1].to_step, *map(_array, met))


def _counted(pairs: list[tuple[int, int]], most: int) -> tuple[int, ...]:
    """How many there are, and they, with room for the most."""
    return (len(pairs), *(number for pair in pairs for number in pair), *(0,) * (2 * (most - len(pairs))))


def _array(rows: Sequence[tuple[int, ...]]) -> ctypes.Array[ctypes.c_int64]:
    numbers = [number for row in rows for number in row]
    return (ctypes.c_int64 * max(1, len(numbers)))(*numbers)
