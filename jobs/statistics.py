"""The numbers of the summary table that tell about one map, in float32 and before any rounding.

A map's numbers must not depend on its batch mates, and a reduction over a batch may add up in another order when the
batch has another size. So every sum is taken in one fixed tree of pairs, by additions of whole tensors: each addition is
rounded by itself, wherever in a batch it stands, and the order is that of the tree. Everything else is element by element,
a maximum or an ordering, which have one right answer.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

COLUMNS = (
    *("attribution_sum", "abs_sum", "positive_sum", "negative_sum", "abs_max"),
    *("gini", "entropy", "centre_y", "centre_x", "nonfinite_count"),
)
EXACT = 23  # bits of a float32's mantissa
# Maps taken together: on a GPU enough to fill it; on a CPU a few, whose steps cost more than their numbers while these stay in
# its cache (four of (3, 224, 224) take two thirds of the time of four times one).
BATCH_BYTES = {"cuda": 32 * 2**20, "cpu": 5 * 2**19}


def statistics(maps: Tensor) -> dict[str, np.ndarray]:
    """One number per image and column.  maps (N, *features) -> {column: (N,)}"""
    return columns(numbers(maps).cpu().numpy())


def numbers(maps: Tensor) -> Tensor:
    """The same as one table where the maps are, without waiting for the device.  (N, *features) -> (N, columns), float64"""
    if not len(maps):
        return torch.empty(0, len(COLUMNS), dtype=torch.float64, device=maps.device)
    return torch.cat([_of(some.float().contiguous()) for some in torch.split(maps, _at_once(maps))])


def columns(table: np.ndarray) -> dict[str, np.ndarray]:
    """(N, columns) -> {column: (N,)}"""
    found: dict[str, np.ndarray] = {name: table[:, i].astype(np.float32) for i, name in enumerate(COLUMNS)}
    found["nonfinite_count"] = table[:, -1].astype(np.int64)
    return found


def total(values: Tensor, dim: int = -1) -> Tensor:
    """The sum along one dimension, in a tree of pairs that depends on its length alone."""
    length = values.shape[dim]
    if length == 1:
        return values.select(dim, 0)
    half = 1 << (length - 1).bit_length() - 1  # the largest power of two below the length
    folded = values.narrow(dim, 0, half).clone(memory_format=torch.contiguous_format)
    folded.narrow(dim, 0, length - half).add_(values.narrow(dim, half, length - half))
    while half > 1:
        half //= 2
        folded.narrow(dim, 0, half).add_(folded.narrow(dim, half, half))
    return folded.select(dim, 0)


def _of(maps: Tensor) -> Tensor:
    """(n, *features) -> (n, columns)"""
    has_axes = maps.dim() > 2
    maps = maps.reshape(len(maps), -1, *(maps.shape[-2:] if has_axes else (1, maps[0].numel())))  # (n, rest, y, x)
    positive, negative = total(maps.clamp(min=0), 1), total(maps.clamp(max=0), 1)  # (n, y, x)
    plane = positive - negative
    along_y, along_x = total(plane), total(plane, -2)
    more, less, strength = total(total(positive)), total(total(negative)), total(along_y)
    size = maps.abs().flatten(1)
    unknown = torch.full_like(strength, torch.nan)
    found = (
        *(more + less, strength, more, less, size.amax(1)),
        *(_gini(size, strength), _entropy(size, strength)),
        *((_centre(along_y, strength), _centre(along_x, strength)) if has_axes else (unknown, unknown)),
        -_overflowing(maps.flatten(1)).sum(1),
    )
    # float64 holds both the float32 numbers and the count exactly
    return torch.stack([each.to(torch.float64) for each in found], 1)


def _gini(size: Tensor, strength: Tensor) -> Tensor:
    """0 where all features share alike, towards 1 where one has it all (Chalasani et al. 2020, eq. 6). NaN for an empty map."""
    return 1 - 2 * total(_ordered(size).mul_(_weights(size.shape[1], size.device))) / strength


@lru_cache(maxsize=16)
def _weights(count: int, device: torch.device) -> Tensor:
    return (count - torch.arange(1, count + 1, device=device, dtype=torch.float32) + 0.5) / count


def _overflowing(maps: Tensor) -> Tensor:
    """-1 where a number is not finite: there the exponent's bits are all ones, and one more carries into the sign."""
    return maps.abs().view(torch.int32).add_(1 << EXACT).bitwise_right_shift_(31)


def _ordered(size: Tensor) -> Tensor:
    """Each row from small to large, where none is negative."""
    if size.is_cuda:
        return ordered_at_once(size)
    # numpy sorts twenty times as fast as torch does on a CPU, which brings indices along.
    return torch.from_numpy(np.sort(size.numpy(), axis=1))


def ordered_at_once(size: Tensor) -> Tensor:
    """The same by one sort of all rows: on a GPU torch sorts long rows one after the other.  (n, length), none negative

    The bits of float32 numbers that aren't negative order as they do, with those that are none last; the row comes before them.
    """
    rows = torch.arange(len(size), device=size.device)[:, None] << 32
    keys = size.view(torch.int32) | rows
    return keys.flatten().sort().values.to(torch.int32).view(torch.float32).reshape(size.shape)


def _entropy(size: Tensor, strength: Tensor) -> Tensor:
    """In nats, of the shares of the absolute attribution."""
    shares = size / strength[:, None]
    # A share of 0 counts 0, as its limit is; the logarithm of the smallest float stands in for that of 0.
    return -total(shares.clamp(min=torch.finfo(shares.dtype).tiny).log_().mul_(shares))


def _centre(along: Tensor, strength: Tensor) -> Tensor:
    """Centre of the absolute attribution along an axis, as a share of its length.  along (n, length)"""
    length = along.shape[1]
    place = (torch.arange(length, device=along.device, dtype=along.dtype) + 0.5) / length
    return total(along * place) / strength


def round_mantissa(maps: Tensor, keep_bits: int) -> Tensor:
    """float32 rounded to `keep_bits` of mantissa on the device, ties to even: the twin of storage.tensors.round_mantissa."""
    dropped = EXACT - keep_bits
    if dropped == 0 or not len(maps):
        return maps.float()
    rounded = torch.empty_like(maps, dtype=torch.float32, memory_format=torch.contiguous_format)
    for some, into in zip(*(torch.split(each, _at_once(maps)) for each in (maps, rounded)), strict=True):
        exact = some.float().contiguous()
        bits, step = exact.view(torch.int32), into.view(torch.int32)
        # Half a step, less one where the last kept bit is even, carries into it exactly when it must round up. Infinity stays so.
        torch.bitwise_right_shift(bits, dropped, out=step)
        step.bitwise_and_(1).add_((1 << (dropped - 1)) - 1).add_(bits).bitwise_and_(~((1 << dropped) - 1))
        # A sum tells whether there is anything to keep from rounding; a GPU would have to be waited for.
        if exact.is_cuda or not exact.sum().isfinite():
            torch.where(exact.isnan(), exact, into, out=into)
    return rounded


def _at_once(maps: Tensor) -> int:
    return max(1, BATCH_BYTES.get(maps.device.type, BATCH_BYTES["cuda"]) // max(1, 4 * maps[:1].numel()))
