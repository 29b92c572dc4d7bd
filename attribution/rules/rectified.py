"""GUIDED and DECONVOLVED: what two classics let pass at a rectifier; everything else is the plain gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attribution.calls import Bound
from attribution.propagation import Lending, Operation, Rule, Rules, Treatment
from attribution.rules.difference import derivative
from attribution.rules.operations import CUTS, RECTIFIERS


def guided(f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]) -> tuple[Tensor]:
    """Only what is positive on the way forward and on the way back: relu(gradient) * relu(f'(x)).

    For ReLU, f' is 1 where x > 0 (Springenberg et al. 2015, arXiv:1412.6806, section 3.4). A smooth rectifier (SiLU,
    GELU, Hardswish, ...) keeps its own slope in place of the step; where that is negative, in the dip left of zero,
    nothing passes, as ReLU never turns a sign.
    """
    return (gradient.relu() * derivative(f, inputs[0]).relu(),)


def deconvolved(
    _f: Operation, gradient: Tensor, _inputs: Sequence[Tensor], _reference: Sequence[Tensor]
) -> tuple[Tensor]:
    """relu(gradient), whatever went forward (Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1); of every rectifier alike."""
    return (gradient.relu(),)


def rectifier(rule: Rule) -> Treatment:
    """Operations that are rectifiers always, and those that are where they cut at zero, as hardtanh(0, 6) and clamp(min=0)."""

    def treatment(lending: Lending, bound: Bound) -> Any:
        if len(bound.credited) == 1 and (bound.name in RECTIFIERS or _cuts_at_zero(bound)):
            return lending.apply(bound, rule)
        return bound()

    return treatment


def _cuts_at_zero(bound: Bound) -> bool:
    below, above = (bound(bound.credited[0].new_full((1,), number)) for number in (-1, 1))
    return bool((below == 0).all() and (above == 1).all())


GUIDED = Rules(name="guided_backprop", treatments=dict.fromkeys(RECTIFIERS | CUTS, rectifier(guided)), audited=False)
DECONVOLVED = Rules(
    name="deconvolution", treatments=dict.fromkeys(RECTIFIERS | CUTS, rectifier(deconvolved)), audited=False
)
