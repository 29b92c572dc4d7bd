"""Images of which some regions are kept and the others replaced, and credit for regions spread over their features."""

from collections.abc import Callable

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, cut, parts_of, sent
from attribution.nearby import Variant, can_be_patched
from attribution.passes import Rows
from attribution.patches import Box


def region_counts(mask: Features, rows: int) -> Tensor:
    """How many regions each image has, on the CPU; some images may have fewer than others.  -> (rows,)"""
    counts = torch.stack([flat_rows(part).amax(1) for part in parts_of(mask)]).amax(0) + 1
    return counts.cpu().expand(rows)


def without(region: int, mask: Features, x: Features, reference: Features) -> Features:
    """X with one region of every image replaced by the reference's."""
    together = zip(parts_of(mask), parts_of(x), parts_of(reference), strict=True)
    return bundled([torch.where(where == region, other, part) for where, part, other in together])


def lacking(region: int, mask: Features, x: Features, reference: Callable[[Rows], Features]) -> Variant:
    """`without`, of the rows that are asked for, as the reference is."""

    def of(rows: Rows) -> Features:
        return without(region, cut(mask, rows), x[rows], reference(rows))

    return Variant(of, _box_of(region, mask, x))


def _box_of(region: int, mask: Features, x: Features) -> Box | None:
    """The rows and columns of maps that hold the region in any image; None where nobody needs them."""
    where, part = parts_of(mask)[0], parts_of(x)[0]
    if not can_be_patched(x) or where.shape[-2:] != part.shape[-2:]:  # a host would wait for its GPU to tell
        return None
    held = (where == region).flatten(0, 1).any(0)
    down, across = (held.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    return Box(down[0], down[-1] + 1, across[0], across[-1] + 1) if down else None


def composed(kept: Tensor, mask: Features, x: Features, reference: Features) -> Features:
    """The kept regions of each image from x, the others from the reference.  kept (N, regions) bool"""
    together = zip(parts_of(mask), parts_of(x), parts_of(reference), strict=True)
    return bundled([torch.where(_by_feature(kept, where), part, other) for where, part, other in together])


def credited(values: Tensor, mask: Features, like: Features) -> Features:
    """Every feature gets what its region got.  values (N, regions) -> (N, *features)"""
    together = zip(parts_of(mask), parts_of(like), strict=True)
    return bundled([_by_feature(values, where).expand_as(part).contiguous() for where, part in together])


def region_dots(one: Features, other: Features, mask: Features, counts: Tensor) -> Tensor:
    """For each region, the sum of one * other over its features, in float64.  (N, *features), counts (N,) -> (N, regions)"""
    most = int(counts.max())
    dots = torch.zeros(len(one) * most, dtype=torch.float64, device=parts_of(one)[0].device)
    first = torch.arange(0, len(dots), most, device=dots.device).unsqueeze(1)
    for where, a, b in zip(*map(parts_of, (mask, one, other)), strict=True):
        regions = flat_rows(where.expand(a.shape)) + first
        dots.index_add_(0, regions.flatten(), (a.double() * b.double()).flatten())
    return dots.reshape(len(one), most)


def region_sizes(mask: Features, like: Features) -> Features:
    """For each feature, how many features its region has.  -> (N, *features)"""
    ones = torch.ones_like(like)
    sizes = region_dots(ones, ones, mask, region_counts(mask, len(like)))
    return credited(sizes.to(parts_of(like)[0].dtype), mask, like)


def _by_feature(values: Tensor, mask: Tensor) -> Tensor:
    """(N, regions), (1 or N, *features) -> (N, *features)"""
    regions = flat_rows(mask).expand(len(values), -1)
    return sent(values, mask.device).gather(1, regions).reshape(len(values), *mask.shape[1:])


def flat_rows(part: Tensor) -> Tensor:
    """A row of features for each row, of which there may be one.  (N, ...) -> (N, features)"""
    return part.flatten(1) if part.dim() > 1 else part.unsqueeze(1)
