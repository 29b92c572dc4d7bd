"""Asking a Site with rules: one pass over the images, one over each reference, and the audit between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.audit import uncovered
from attribution.bundle import Features, expanded, parts_of
from attribution.errors import AttributionError, ModelError
from attribution.passes import Passes, Rows
from attribution.propagation import Lending, RowsDiffer, Rules, lent
from attribution.site import Point, Site, at_least_float32, gradient_of
from attribution.tap import accumulated

Credit = Callable[[Features, Features, Features], Features]
"""(multiplier, features at x, features at the reference) -> attribution."""

Forward = Callable[[], tuple[Tensor, Features]]


class UncoveredOperationError(ModelError):
    """An operation of the model that no rule covers."""


@dataclass(frozen=True, slots=True, eq=False)
class Propagated(Point):
    """A Point whose gradient followed rules, and what the rules kept to themselves over all rows (padding too), by reason."""

    absorbed: dict[str, float]


def propagated(site: Site, x: Features, rules: Rules, *, on_unruled: str = "error") -> Propagated:
    """Score, features and ruled gradient at x, from one forward and one backward."""
    absorbed: dict[str, float] = {}

    def one_pass(rows: Rows) -> tuple[Features, ...]:
        with torch.enable_grad():
            lending, score, features = _lent_pass(lambda: site.forward(x[rows], rows), rules)
            _audit(lending, score, features, lambda: site.forward(x[rows], rows), on_unruled, site.passes)
            gradient = gradient_of(score, features)
        for reason, amount in lending.absorbed.items():
            absorbed[reason] = absorbed.get(reason, 0.0) + float(amount)
        return accumulated(score.detach()), at_least_float32(features.detach()), at_least_float32(gradient)

    score, features, gradient = site.passes.over(len(x), one_pass)
    return Propagated(parts_of(score)[0], features, gradient, absorbed)


def compared(
    site: Site, x: Features, references: Sequence[Features], rules: Rules, credit: Credit, *, on_unruled: str = "error"
) -> Features:
    """The mean over the references of what `credit` makes of each one's multipliers.

    The images go forward once; each reference (one row for all images, or a row each) goes forward without gradients,
    and gradients flow back once for each.
    """

    def one_pass(rows: Rows) -> tuple[Features]:
        def credited(number: int) -> Features:
            start = _reference_pass(site, lending, references[number], x, rows)
            if number == 0:
                _audit(lending, score, features, lambda: site.forward(x[rows], rows), on_unruled, site.passes)
            with torch.enable_grad():
                multiplier = gradient_of(score, features, retain_graph=number + 1 < len(references))
            return credit(*map(at_least_float32, (multiplier, features.detach(), start)))

        with torch.enable_grad():
            lending, score, features = _lent_pass(lambda: site.forward(x[rows], rows), rules)
        return (sum(map(credited, range(1, len(references))), credited(0)) / len(references),)

    return site.passes.over(len(x), one_pass)[0]


def stands_for_all(site: Site, reference: Features, x: Features) -> bool:
    """Whether one row serves all images: it has stride 0 over them, or there are more of them than rows."""
    has_arguments = any(isinstance(argument, Tensor) and argument.dim() for argument in site.explained.arguments)
    return not has_arguments and all(len(part) < len(x) or part.stride(0) == 0 for part in parts_of(reference))


def score_of_reference(site: Site, reference: Features, x: Features) -> Tensor:
    """What each image's score is at the reference, which is computed once where one stands for all.  -> (N,)"""
    if not stands_for_all(site, reference, x):
        return site.score(expanded(reference, x))
    explained, row = site.explained, reference[:1]
    with torch.no_grad():
        if explained.target is None:
            return accumulated(explained(row)).expand(len(x))
        output = explained.output(row)
        return accumulated(explained.of(output.expand(len(x), *output.shape[1:])))


def _lent_pass(forward: Forward, rules: Rules) -> tuple[Lending, Tensor, Features]:
    with lent(rules) as lending:
        score, features = forward()
    return lending, score, features


def _reference_pass(site: Site, lending: Lending, reference: Features, x: Features, rows: Rows) -> Features:
    """The features at the reference; a single row is repeated where the model mixes rows with windows or heads."""
    if stands_for_all(site, reference, x):
        try:
            with lending.reference():
                return site.forward(reference[:1], _first(rows))[1].detach()
        except RowsDiffer:
            pass
    with lending.reference():
        return site.forward(expanded(reference, x)[rows], rows)[1].detach()


def _first(rows: Rows) -> Rows:
    return slice(rows.start, rows.start + 1) if isinstance(rows, slice) else rows[:1]


def check_on_unruled(choice: str) -> None:
    """What may be done about an operation that no rule covers."""
    if choice not in ("error", "gradient"):
        raise AttributionError(f"on_unruled={choice!r} not understood; use 'error' or 'gradient'")


def _audit(
    lending: Lending, score: Tensor, features: Features, again: Forward, on_unruled: str, passes: Passes
) -> None:
    """Nothing nonlinear may have passed without a rule: an error, or with on_unruled="gradient" a warning that is kept."""
    rules = lending.rules
    if not rules.audited:
        if not any(call.rule for call in lending.calls):
            _warn(f"{rules.name} met no rectifier in the model: its map is the plain gradient", passes)
        return
    found = list(lending.uncovered)
    if uncovered(score, parts_of(features), rules.by_gradient):
        # Only anomaly mode knows where a node was made; it is slow, so the pass runs again in it.
        with torch.autograd.set_detect_anomaly(True, check_nan=False), torch.enable_grad():
            _, score, features = _lent_pass(again, rules)
        found += uncovered(score, parts_of(features), rules.by_gradient)
    if not found:
        return
    places = [str(one) for one in dict.fromkeys(found)]
    operations = "; ".join(places[:3]) + (f"; and {len(places) - 3} more" if len(places) > 3 else "")
    if on_unruled != "gradient":
        raise UncoveredOperationError(
            f"no rule of {rules.name} covers {operations}: call it as a torch function, or pass on_unruled='gradient'"
        )
    _warn(f"no rule of {rules.name} covers {operations}: the plain gradient passes there", passes)


def _warn(message: str, passes: Passes) -> None:
    if message not in passes.warnings:
        passes.warnings.append(message)
        warnings.warn(message, stacklevel=2)
