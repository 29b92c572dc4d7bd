"""Taking gradients: leaves to take them by, in the precision that they need on the way and afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.errors import ModelError
from attribution.tap import accumulated


def as_leaf(x: Features) -> Features:
    """X cut off from its graph, as something to differentiate by."""
    return bundled([part.detach().requires_grad_(part.is_floating_point()) for part in parts_of(x)])


def gradient_of(score: Tensor, features: Features, *, retain_graph: bool = False) -> Features:
    """D score / d features; exactly zero for what the score ignores."""
    if not score.requires_grad:
        raise ModelError("the score can't be differentiated: the model detaches its output or runs without gradients")
    return bundled(gradients_of(score, parts_of(features), retain_graph=retain_graph))


HALF_SCALE = 256.0
"""float16 holds nothing below 6e-8 and gradients of a network's early layers lie there: what flows back is this much larger."""


def gradients_of(score: Tensor, parts: Sequence[Tensor], *, retain_graph: bool = False) -> tuple[Tensor, ...]:
    """D score / d each part, rows apart."""
    scale = HALF_SCALE if score.dtype is torch.float16 else 1.0
    # Of the sum, whose gradient is 1 in every row: handed a gradient to begin with, torch first loads its symbolic shapes for a second.
    asked = score.sum() if scale == 1 else (score * scale).sum()
    found = torch.autograd.grad(asked, parts, retain_graph=retain_graph, materialize_grads=True)
    return found if scale == 1 else tuple(accumulated(gradient) / scale for gradient in found)


def at_least_float32(features: Features) -> Features:
    """Sums over steps and samples need float32's digits, whatever the model computes in."""
    return bundled([accumulated(part) for part in parts_of(features)])
