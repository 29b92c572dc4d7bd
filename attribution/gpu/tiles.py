"""The shapes of tiles that kernels work on, by rules of shapes and types alone: nothing is timed, so that equal runs have equal sums."""

from __future__ import annotations

from typing import NamedTuple

import triton


class Tiles(NamedTuple):
    """The shape of a product's tiles, and how they are worked on."""

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int


def tiles_for(to_channels: int, from_channels: int, taps: int, terms: int, *, is_half: bool) -> Tiles:
    """Of a product that gathers, by rule and not by timing, so that equal runs have equal sums.

    The rules here are from timings of two networks on an H200, each within a tenth of the best tile for most layers.
    """
    width = width_of(to_channels, 64 if from_channels <= 32 else 128)
    is_deep = from_channels > 64 or (from_channels > 32 and terms == 1)
    depth = 16 if from_channels <= 16 else 64 if is_deep and (terms == 1 or taps > 1) else 32
    is_narrow = width <= 32 and (is_half or (terms == 1 and from_channels > 64))
    height = 128 if is_narrow or (is_half and width == 64 and (taps > 1 or from_channels > 64)) else 64
    steps = taps * triton.cdiv(from_channels, depth)
    return Tiles(height, width, depth, 4, min(2 if terms > 1 and depth == 64 else 3, steps + 1))


def boxes_pay(to_channels: int, from_channels: int, taps: int, pixels: int, *, is_half: bool) -> bool:
    """Whether the copy engine fetches sooner than the threads gather.  pixels: of an image that is written

    Narrow products are short, images of 7 x 7 fill no boxes, and half precision of 64 channels is gathered as fast.
    """
    width = width_of(to_channels, 128)
    return from_channels > 32 and width >= 64 and pixels > 64 and not (is_half and taps == 1 and width == 64)


def box_tiles_for(
    to_channels: int, from_channels: int, taps: int, terms: int, *, is_half: bool, is_back: bool
) -> Tiles:
    """Of a product whose boxes are fetched by the copy engine: larger, since no registers go to addresses."""
    steps = taps * triton.cdiv(from_channels, 64)
    if to_channels <= 64:
        return Tiles(128, 64, 64, 4, 2) if taps == 1 else Tiles(128, 64, 32 if terms > 1 else 64, 8, 3)
    if terms > 1:
        return Tiles(128, 128, 64, 8, 2) if steps <= 2 else Tiles(128, 128, 32, 8, 4 if taps == 1 else 3)
    if steps <= 2 or (is_half and taps == 1 and not is_back):
        return Tiles(64, 128, 64, 4, 2)
    return Tiles(128, 128, 64, 8, 3)


def box_for(rows: int, columns: int, pixels: int) -> tuple[int, int, int]:
    """Images, rows and columns of a box of so many pixels: so that few lie outside of an image; of many images some batch may lack some."""
    sides = [1 << power for power in range(5)]
    boxes = [(pixels // (tall * wide), tall, wide) for tall in sides for wide in sides if tall * wide <= pixels]

    def spent(box: tuple[int, int, int]) -> float:
        images, tall, wide = box
        pixels_read: int = triton.cdiv(rows, tall) * tall * triton.cdiv(columns, wide) * wide
        return pixels_read * (1 + images / 512)

    return min(boxes, key=spent)


class FewTiles(NamedTuple):
    """The shape of a tile of a product of few channels: rows and columns of an image, and how it is worked on."""

    rows: int
    columns: int
    channels: int
    depth: int
    warps: int
    stages: int


def few_tiles(to_channels: int, taps: tuple[int, int], from_channels: int, *, is_half: bool) -> FewTiles:
    """By rule: as deep as a kernel is, if that is little, or as one of its rows."""
    row = taps[1] * from_channels
    depth = width_of(taps[0] * row if taps[0] * row <= 32 else row, 1 << 16)
    columns = 16 if is_half or taps[0] * row > 32 else 8
    return FewTiles(8, columns, width_of(to_channels, 64), depth, 4, 1)


class DepthwiseTiles(NamedTuple):
    """The shape of a tile of sums, and who works on it."""

    rows: int
    columns: int
    numbers: int
    """Channels of a thread, which holds their sums of all pixels, and the weights that its rows share."""
    channels: int
    """Of the threads side by side: what they read lies together, at least a sector of 32 bytes."""
    warps: int
    registers: int | None
    """The most of a thread: with 128 there is room for 16 warps, with 168 for 12. Left alone, a compiler reads far ahead."""

    @property
    def per_program(self) -> int:
        """Tiles of a program."""
        return max(32 * self.warps * self.numbers // self.channels, 1)


def depthwise_tiles(taps: int, step: int, *, is_half: bool, is_back: bool) -> DepthwiseTiles:
    """By rule and not by timing; sums are the same in any tile.

    More rows read less and hold more; and a compiler takes long for many taps in many rows.
    """
    if taps > 25:
        return DepthwiseTiles(1, 4, 4, 16, 4, None)
    if is_back and step > 1:  # a tap meets one row in `step`
        return DepthwiseTiles(2, 4, 4, 16, 4, None)
    if is_back:
        if taps > 9:
            return DepthwiseTiles(2, 4, 4, 16, 4, 128)
        return DepthwiseTiles(2, 4, 8, 16, 4, 168) if is_half else DepthwiseTiles(2, 4, 2, 16, 4, None)
    if step > 1:
        return DepthwiseTiles(2, 4, 2, 16, 4, 128) if taps > 16 else DepthwiseTiles(2, 4, 4, 32, 4, 168)
    return DepthwiseTiles(4, 4, 2, 16, 4, 128) if taps > 9 else DepthwiseTiles(4, 4, 4, 16, 4, None)


def unit_of(channels: int) -> int:
    """What channels come in multiples of, so that a compiler sees how wide they can be loaded."""
    return next(unit for unit in (8, 4, 2, 1) if channels % unit == 0)


def width_of(channels: int, most: int) -> int:
    """The power of two that holds them, from 16 to the most."""
    return max(16, min(most, 1 << (channels - 1).bit_length()))
