"""The numbers of the summary table that tell about one map, in float32 and before any rounding.

One map at a time: a reduction over a batch may add up in another order when the batch has another size, and a map's
numbers must not depend on its batch mates.
"""

import numpy as np
import torch
from torch import Tensor

COLUMNS = (
    *("attribution_sum", "abs_sum", "positive_sum", "negative_sum", "abs_max"),
    *("gini", "entropy", "centre_y", "centre_x", "nonfinite_count"),
)


def statistics(maps: Tensor) -> dict[str, np.ndarray]:
    """One number per image and column.  maps (N, *features) -> {column: (N,)}"""
    rows = [_of_one(one.float()) for one in maps]
    table = torch.stack(rows).cpu().numpy() if rows else np.empty((0, len(COLUMNS)), np.float64)
    columns: dict[str, np.ndarray] = {name: table[:, i].astype(np.float32) for i, name in enumerate(COLUMNS)}
    columns["nonfinite_count"] = table[:, -1].astype(np.int64)
    return columns


def _of_one(one: Tensor) -> Tensor:
    """(*features) -> (columns,)"""
    size = one.abs()
    total = size.sum()
    numbers = (
        *(one.sum(), total, one.clamp(min=0).sum(), one.clamp(max=0).sum(), size.max()),
        *(_gini(size, total), _entropy(size, total)),
        *(_centre(size, total, -2), _centre(size, total, -1)),
        (~one.isfinite()).sum(),
    )
    # float64 holds both the float32 numbers and the count exactly
    return torch.stack([number.to(torch.float64) for number in numbers])


def _gini(size: Tensor, total: Tensor) -> Tensor:
    """0 where all features share alike, towards 1 where one has it all (Chalasani et al. 2020, eq. 6). NaN for an empty map."""
    ordered = size.flatten().sort().values
    count = len(ordered)
    weights = (count - torch.arange(1, count + 1, device=size.device, dtype=size.dtype) + 0.5) / count
    return 1 - 2 * (ordered / total * weights).sum()


def _entropy(size: Tensor, total: Tensor) -> Tensor:
    """In nats, of the shares of the absolute attribution."""
    nats: Tensor = torch.special.entr(size / total).sum()
    return nats


def _centre(size: Tensor, total: Tensor, axis: int) -> Tensor:
    """Centre of the absolute attribution along an axis, as a share of its length; NaN where a map has no such axis."""
    if size.dim() < 2:
        return torch.full_like(total, torch.nan)
    along = size.movedim(axis, 0).flatten(1).sum(1)
    place = (torch.arange(len(along), device=size.device, dtype=size.dtype) + 0.5) / len(along)
    centre: Tensor = (along * place).sum() / total
    return centre


def round_mantissa(maps: Tensor, keep_bits: int) -> Tensor:
    """float32 rounded to `keep_bits` of mantissa on the device, ties to even: the twin of storage.tensors.round_mantissa."""
    exact = maps.float()
    dropped = 23 - keep_bits
    if dropped == 0:
        return exact
    bits = exact.view(torch.int32)
    odd = (bits >> dropped) & 1
    rounded = (bits + ((1 << (dropped - 1)) - 1) + odd) & ~((1 << dropped) - 1)
    return torch.where(exact.isfinite(), rounded.view(torch.float32), exact)
