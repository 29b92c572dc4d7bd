"""The numbers of the summary table that tell about one map, in float32 and before any rounding.

A map's numbers must not depend on its batch mates, and a reduction over a batch may add up in another order when the
batch has another size. So every sum is taken in one fixed tree of pairs, by additions of whole tensors: each addition is
rounded by itself, wherever in a batch it stands, and the order is that of the tree. Everything else is element by element,
a maximum or an ordering, which have one right answer.

On a GPU the ordering is of numbers rounded to 21 bits or so (`ordered_at_once`): there the Gini coefficient is within 1e-6 of a
CPU's, seen 1.2e-7. Sums, maxima, counts and centres are equal.
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
# its cache (two or three of (3, 224, 224) take nine tenths of the time of as many times one, and two thirds of that of eight).
BATCH_BYTES = {"cuda": 32 * 2**20, "cpu": 3 * 2**19}
ROW_BITS, PLACE_BITS = 6, 26  # of a key that orders numbers by their row and, within it, by their place


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
    signs = maps.new_empty(2, *maps.shape)  # both at once: half as many steps, which are small for a GPU
    torch.clamp(maps, min=0, out=signs[0])
    torch.clamp(maps, max=0, out=signs[1])
    signs = total(signs, 2)  # (2, n, y, x)
    along_y = total(signs)
    more, less = total(along_y)
    strength = more - less
    size = maps.abs().flatten(1)
    gini, entropy = _of_shares(size / strength[:, None], strength)
    along_x = total(signs[0] - signs[1], -2)
    centres = _centre(along_y[0] - along_y[1], strength), _centre(along_x, strength)
    unknown = torch.full_like(strength, torch.nan)
    found = (
        *(more + less, strength, more, less, size.amax(1), gini, entropy),
        *(centres if has_axes else (unknown, unknown)),
        _nonfinite(size),
    )
    # float64 holds both the float32 numbers and the count exactly
    return torch.stack([each.to(torch.float64) for each in found], 1)


def _of_shares(shares: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Gini coefficient and entropy of each row's shares of its sum.  shares (n, length), strength (n,) -> (n,), (n,)

    Gini is 0 where all features share alike, towards 1 where one has it all (Chalasani et al. 2020, eq. 6). NaN for an empty map.
    Entropy is in nats.
    """
    terms = shares.new_empty(2, *shares.shape)
    torch.mul(_ordered(shares), _weights(shares.shape[1], shares.device), out=terms[0])
    # A share of 0 counts 0, as its limit is; the logarithm of the smallest float stands in for that of 0.
    torch.clamp(shares, min=torch.finfo(shares.dtype).tiny, out=terms[1]).log_().mul_(shares)
    gini, negentropy = total(terms)
    has_shares = (strength > 0) & strength.isfinite()
    return gini.masked_fill(~has_shares, torch.nan), -negentropy


@lru_cache(maxsize=16)
def _weights(count: int, device: torch.device) -> Tensor:
    """(2 i - count - 1) / count for i = 1, 2, ...: what is added to all shares alike counts nothing."""
    return torch.arange(1 - count, count, 2, device=device, dtype=torch.float32) / count


def _nonfinite(size: Tensor) -> Tensor:
    """How many in a row.  (n, length), none negative -> (n,)"""
    # -1 where the exponent's bits are all ones: there one more carries into the sign.
    return -size.view(torch.int32).add(1 << EXACT).bitwise_right_shift_(31).sum(1)


def _ordered(shares: Tensor) -> Tensor:
    """Each row from small to large."""
    if shares.is_cuda:
        return ordered_at_once(shares)
    # numpy sorts twenty times as fast as torch does on a CPU, which brings indices along.
    return torch.from_numpy(np.sort(shares.numpy(), axis=1))


def ordered_at_once(shares: Tensor) -> Tensor:
    """The same by one sort of 32-bit numbers for 64 rows: on a GPU a sort takes time by the bits of its keys.

    shares (n, length), of which the rows sum to 1; a row with numbers that are none comes back as any numbers.

    The bits of floats from 1 on order as they do. So a row's number is followed by those of 1 + u for u = 2**k times the share,
    where u's mean is between 1 and 2. Of 32 bits they get 26: five tell the octave, the rest a place in it, rounded to nearest.
    That moves each number by 2**-22 of 1 + u at most, and the Gini coefficient by less than 1e-6.
    """
    ordered, step = torch.empty_like(shares), EXACT + 5 - PLACE_BITS
    scale, one = float(1 << (shares.shape[1] - 1).bit_length()), 0x3F800000  # the bits of 1.0
    for some, into in zip(*(torch.split(each, 1 << ROW_BITS) for each in (shares, ordered)), strict=True):
        places = some.mul(scale).add_(1).view(torch.int32).sub_(one - (1 << step >> 1))
        places.bitwise_right_shift_(step).bitwise_and_((1 << PLACE_BITS) - 1)
        rows = torch.arange(len(some), dtype=torch.int32, device=some.device) - (1 << ROW_BITS >> 1)  # signed
        places.add_(rows[:, None] * (1 << PLACE_BITS))
        found = places.flatten().sort().values.bitwise_and_((1 << PLACE_BITS) - 1)
        u = found.bitwise_left_shift_(step).add_(one).view(torch.float32).sub_(1).reshape(some.shape)
        torch.mul(u, 1 / scale, out=into)
    return ordered


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
    """As many as make batches of about BATCH_BYTES, all alike: a last one of few maps would cost as many steps."""
    batches = max(1, round(4 * maps.numel() / BATCH_BYTES.get(maps.device.type, BATCH_BYTES["cuda"])))
    return max(1, -(-len(maps) // batches))
