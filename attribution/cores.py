"""Convolutions for cores that multiply tiles of bfloat16 (AMX): float32 by three products, sum and rectifier in the same pass.

Offers what `gpu/convolutions.py` offers for a GPU; `products.c` computes. An image is read into planes, in which neighbours
are a step of the convolution apart and a tap is an offset, so that each tile of the left side lies in one piece. Of a
gradient, each phase of the pixels that are stepped over is written by itself (see `phases.py`).
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from math import inf, nan
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from attribution.derived import Derived
from attribution.geometry import Ends, Geometry, Sizes

VERSION = 1  # of products.c, as it says itself

FEW = 8
"""Channels of an input that are left to torch: a tile takes 32."""

DEPTH, WIDTH = 32, 32
"""Channels that a tile takes of what is read, and two tiles of what is written."""

PIECE = 32
"""Positions that are multiplied at a time."""

SCRATCH = 3 << 18
"""Bytes of planes that a thread keeps, beside weights, in a second cache of 2 MiB."""

BAND = 3 << 17
"""Bytes that it reads, keeps and writes at a time, where taps don't ask for more: all of that stays in the cache, too."""

MOST_TAPS = 64
"""Places of a depthwise kernel."""

LEAST, HALO = 4 * PIECE, 16
"""Positions for which weights are worth fetching, and how many times what taps reach beyond, which is read twice."""

LACKING = "multiplies tiles of bfloat16 on cores, and here are no such tiles (amx_bf16), or products.c was not compiled"


@cache
def library() -> ctypes.CDLL | None:
    """What was compiled for this interpreter, where the processor has tiles and Linux lends them."""
    path = Path(__file__).with_name(f"_products{sysconfig.get_config_var('EXT_SUFFIX')}")
    try:
        found = ctypes.CDLL(str(path))
        version = ctypes.c_int.in_dll(found, "products_version").value
    except (OSError, ValueError):  # not there, another machine's, older than versions, or a torch without OpenMP
        return None
    return found if version == VERSION and found.products_are_there() else None


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel is convolved by one kernel of its own."""
    return groups == len(weight) > 1 and weight.shape[1] == 1


def can(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether there are tiles for it: plain convolutions of float32, of more than a few channels; and sums for depthwise ones."""
    is_plain = geometry.groups == 1 and weight.shape[1] > FEW
    is_small = is_depthwise(weight, geometry.groups) and weight[0, 0].numel() <= MOST_TAPS
    is_there = (is_plain or is_small) and x.dim() == 4 and x.numel() > 0 and x.is_cpu
    return is_there and x.dtype == weight.dtype == torch.float32 and library() is not None


def can_pull_back(geometry: Geometry) -> bool:  # noqa: ARG001  # a GPU's kernels don't take them all
    """Whether the gradient is taken, too."""
    return True


def can_add(weight: Tensor, geometry: Geometry) -> bool:  # noqa: ARG001  # as above
    """Whether another tensor is added in the same pass over memory, to what it puts out and to what it pulls back."""
    return True


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    ends: Ends | None,
    terms: int,
    added: Tensor | None = None,
) -> Tensor:
    """Clamp(conv2d(x, weight, bias) + added, *ends), where there are ends.  (n, c, h, w) -> (n, k, h', w'), channels_last

    terms: of a product of float32 numbers, 1 or 3.
    """
    kernel, geometry = _sizes(weight), _in_tuples(geometry)
    y = _empty(x, len(weight), geometry.sizes(x.shape[2:], kernel))
    rest = bias, added, None, ends or (-inf, inf), y
    if is_depthwise(weight, geometry.groups):
        sweep = sweep_forward(x.shape, y.shape, kernel, geometry)
        _compute("sums", sweep, x, (taps_last(weight),), *rest)
    else:
        way = way_forward(x.shape, y.shape, kernel, geometry, terms)
        _compute("products", way, x, laid_out(weight, geometry).of(terms), *rest)
    return y


def pulled_back(
    gradient: Tensor,
    weight: Tensor,
    geometry: Geometry,
    shape: torch.Size,
    terms: int,
    gate: Tensor | None = None,
    ends: Ends = (-inf, inf),
    added: Tensor | None = None,
) -> Tensor:
    """What the gradient of a convolution's output comes to at its input, and `added`; nothing where `gate` is not between the ends.

    gradient (n, k, h', w') -> shape (n, c, h, w), channels_last.
    """
    found = _empty(gradient, shape[1], shape[2:])
    low, high = ends
    limits = (low, nan) if gate is not None and high == inf else ends  # nothing is nan or more
    kernel, geometry, rest = _sizes(weight), _in_tuples(geometry), (None, added, gate, limits, found)
    if is_depthwise(weight, geometry.groups):
        sweep = sweep_back(gradient.shape, shape, kernel, geometry)
        _compute("sums", sweep, gradient, (taps_last(weight),), *rest)
    else:
        way = way_back(gradient.shape, shape, kernel, geometry, terms)
        _compute("products", way, gradient, laid_out_back(weight, geometry).of(terms), *rest)
    return found


def _compute(
    name: str,
    way: ctypes.Structure,
    x: Tensor,
    weights: Sequence[Tensor | None],
    bias: Tensor | None,
    added: Tensor | None,
    gate: Tensor | None,
    ends: Ends,
    y: Tensor,
) -> None:
    compiled = library()
    assert compiled is not None
    # Held until they have been read.
    arrays = [
        _last(x),
        *weights,
        None if bias is None else bias.contiguous(),
        *(None if each is None else _last(each) for each in (added, gate)),
    ]
    pointers = [ctypes.c_void_p(None if each is None else each.data_ptr()) for each in arrays]
    limits = map(ctypes.c_float, ends)
    threads = ctypes.c_int(torch.get_num_threads())
    function = getattr(compiled, name)
    if not function(threads, ctypes.byref(way), *pointers, *limits, ctypes.c_void_p(y.data_ptr())):
        raise MemoryError("no memory for a convolution's scratch")


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


@dataclass(frozen=True, slots=True, eq=False)
class Laid:
    """A kernel's weights in the order in which they are read, a tile of 1 KiB after the other."""

    main: Tensor
    rest: Tensor
    """What rounding to bfloat16 has left of each."""

    def of(self, terms: int) -> tuple[Tensor, Tensor | None]:
        """What products of so many terms read."""
        return self.main, self.rest if terms > 1 else None


def _laid(matrices: Tensor, counts: list[int]) -> Laid:
    """(taps, channels read, channels written) -> for each group of taps (block, tap, depth, 2 tiles, 16 pairs, 16, 2)"""
    taps, depth, width = matrices.shape
    whole = functional.pad(matrices, (0, -width % WIDTH, 0, -depth % DEPTH))
    tiles = whole.reshape(taps, -1, DEPTH // 2, 2, whole.shape[2] // WIDTH, 2, WIDTH // 2).permute(4, 0, 1, 5, 2, 6, 3)
    ordered = torch.cat([part.flatten() for part in torch.split(tiles, counts, 1)])
    main = ordered.bfloat16()
    return Laid(main, (ordered - main.float()).bfloat16())


def _of_taps(weight: Tensor, by: tuple[Axis, Axis]) -> tuple[Tensor, list[int]]:
    """The weights of each tap, group by group, and how many there are in each.  (k, c, h, w) -> (taps, k, c)"""
    groups = [[(a.place, b.place) for a, b in product(*group)] for group in product(by[0].taps, by[1].taps)]
    places = [place for group in groups for place in group]
    taps = weight.detach()[:, :, [i for i, _ in places], [j for _, j in places]].permute(2, 0, 1)
    return taps, [len(group) for group in groups]


@Derived
def laid_out(weight: Tensor, geometry: Geometry) -> Laid:
    """(k, c, h, w), for the convolution."""
    taps, counts = _of_taps(weight, axes(forward_along, _sizes(weight), geometry))
    return _laid(taps.transpose(1, 2), counts)


@Derived
def laid_out_back(weight: Tensor, geometry: Geometry) -> Laid:
    """(k, c, h, w), for its gradient."""
    return _laid(*_of_taps(weight, axes(back_along, _sizes(weight), geometry)))


@Derived
def taps_last(weight: Tensor) -> Tensor:
    """A depthwise convolution's (k, 1, h, w) as (h, w, k)."""
    return weight.detach()[:, 0].permute(1, 2, 0).contiguous()


def _in_tuples(geometry: Geometry) -> Geometry:
    """To remember things by; models give steps as lists, too."""
    stride, padding, dilation, groups = geometry
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)


def _sizes(weight: Tensor) -> Sizes:
    return tuple(weight.shape[2:])


def _empty(like: Tensor, channels: int, sizes: Sizes) -> Tensor:
    return torch.empty((len(like), channels, *sizes), dtype=like.dtype, memory_format=torch.channels_last)


def _last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)
