"""Averaging the gradient along a path until it adds up, for each image on its own."""

import torch
from torch import Tensor

from attribution.bundle import Features, expanded, row_sum
from attribution.passes import joined
from attribution.quadrature import nested
from attribution.site import Site

ROUND = 4
"""Points taken between two looks at the error: few enough not to overshoot, enough to fill passes when few images are left."""
FEWEST = 8
"""Before that an error may be small by chance."""


def settled_mean(f: Site, start: Features, end: Features, tolerance: float, max_steps: int) -> tuple[Features, Tensor]:
    """The mean gradient from start to end, and how many gradients each image took: (N, *features), (N,).

    An image is settled once its gradients add up to the score's difference within `tolerance` of it. Settled images leave
    the batch; all points are nested, so that no gradient is thrown away; only their sum is held.
    """
    start = expanded(start, end)
    path, difference = end - start, f.score(end) - f.score(start)
    everything = nested(max_steps)
    rows, total = torch.arange(len(end)), torch.zeros(())
    settled: list[tuple[Tensor, Features, int]] = []
    for taken in range(0, max_steps, ROUND):
        points = everything[taken : taken + ROUND]
        along = joined([start + alpha * path for alpha, _ in points])
        gradient = f.rows(rows.repeat(len(points))).gradient(along)
        for number, (_, weight) in enumerate(points):
            total = total + weight * gradient[number * len(rows) : (number + 1) * len(rows)]
        count = taken + len(points)
        error = (row_sum(path * total) / count - difference).abs()
        done = (error <= tolerance * difference.abs()) & (count >= FEWEST) | (count == max_steps)
        settled.append((rows[done.cpu()], total[done] / count, count))
        left = (~done).nonzero()[:, 0]
        rows, total, difference = rows[left.cpu()], total[left], difference[left]
        start, path = start[left], path[left]
        if not len(rows):
            break
    order = torch.cat([rows for rows, _, _ in settled]).argsort()
    steps = torch.cat([torch.full_like(rows, count) for rows, _, count in settled])
    return joined([mean for _, mean, _ in settled])[order], steps[order]
