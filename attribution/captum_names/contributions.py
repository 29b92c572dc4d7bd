"""What Captum's DeepLIFT classes do when they are asked: contributions by the Rescale rule, against one reference or many."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, expanded, parts_of
from attribution.captum_names import forms
from attribution.captum_names.asked import Asked, Where
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.formula import Arguments
from attribution.ruled import Credit, compared
from attribution.rules.rescale import RESCALE
from attribution.site import Input


@dataclass(frozen=True)
class DeepLift:
    """Share out the score's difference from the baseline's, operation by operation (Rescale rule), exactly."""

    where: Where = "input"

    def __call__(self, owner: Any, given: Arguments) -> Any:
        asked = Asked(owner, given, self.where)
        features = contributions(asked, [asked.baseline], credit_of(owner, given))
        answer = asked.packed(features)
        return (answer, asked.delta(features)) if given.get("return_convergence_delta") else answer


@dataclass(frozen=True)
class DeepLiftShap:
    """The mean of DeepLIFT over a set of baselines, an approximation of the Shapley values of the features."""

    where: Where = "input"

    def __call__(self, owner: Any, given: Arguments) -> Any:
        asked = Asked(owner, given, self.where)
        references, sums = _references(asked), list[Tensor]()
        credit = credit_of(owner, given)

        def noted(multiplier: Features, end: Features, start: Features) -> Features:
            contribution = credit(multiplier, end, start)
            sums.append(forms.row_sums(parts_of(contribution)))
            return contribution

        answer = asked.packed(contributions(asked, references, noted))
        return (answer, _deltas(asked, references, sums)) if given.get("return_convergence_delta") else answer


def contributions(asked: Asked, references: Sequence[Features], credit: Credit) -> Features:
    """An operation without a rule passes the plain gradient with a warning: Captum's does so without a word."""
    return compared(asked.site, asked.x, references, RESCALE, credit, on_unruled="gradient").features


def credit_of(owner: Any, given: Arguments) -> Credit:
    """How multipliers become attributions: times the difference, as they are, or as the caller's function says."""
    custom = given.get("custom_attribution_func")
    if custom is not None:
        return _callers(custom)
    if owner.multiplies_by_inputs:
        return lambda multiplier, end, start: multiplier * (end - start)
    return lambda multiplier, _end, _start: multiplier


def _callers(custom: Callable[..., Any]) -> Credit:
    count = len(inspect.signature(custom).parameters)
    if not 1 <= count <= 3:
        raise ArgumentError(
            f"custom_attribution_func takes {count} arguments; it must take multipliers[, inputs[, baselines]]"
        )

    def credit(multiplier: Features, end: Features, start: Features) -> Features:
        given = (parts_of(multiplier), parts_of(end), parts_of(expanded(start, end)))
        return bundled(custom(*given[:count]))

    return credit


def _references(asked: Asked) -> list[Features]:
    """Each row of the baselines as one reference."""
    inputs = asked.inputs
    if asked.where == "layer":
        inputs = forms.Inputs(inputs.parts, is_tuple=True)  # Captum's functions of the inputs get a tuple here
    rows = forms.read_distribution(asked.given["baselines"], inputs)
    counts = {len(part) for part in rows}
    if len(counts) != 1 or counts == {1}:
        raise ArgumentError(
            f"baselines have {' and '.join(str(len(part)) for part in rows)} row(s): give each input equally many, "
            "two at least, or use DeepLift"
        )
    if asked.inputs.half:
        rows = tuple(part.float() for part in rows)
    return [bundled([part[k : k + 1] for part in rows]) for k in range(counts.pop())]


def _deltas(asked: Asked, references: Sequence[Features], sums: Sequence[Tensor]) -> Tensor:
    """Of every row against every reference, those of a row together.  -> (N * K,)"""
    ends = Input(asked.explained, asked.passes)
    starts = torch.stack([ends.score(expanded(reference, asked.x)) for reference in references], 1)
    return (torch.stack(list(sums), 1) - (ends.score(asked.x).unsqueeze(1) - starts)).flatten()
