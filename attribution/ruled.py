"""Asking a Site with rules: one pass over the images, one over each reference, and the audit between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from attribution.audit import uncovered
from attribution.bundle import Features, expanded, parts_of
from attribution.errors import AttributionError, ModelError
from attribution.gradients import at_least_float32, gradient_of
from attribution.graphs import Told
from attribution.nodes import Call, RowsDiffer
from attribution.passes import Passes, Rows
from attribution.propagation import Rules, lent
from attribution.score import Aiming
from attribution.site import Point, Site
from attribution.tap import accumulated

Credit = Callable[[Features, Features, Features], Features]
"""(multiplier, features at x, features at the reference) -> attribution."""


class UncoveredOperationError(ModelError):
    """An operation of the model that no rule covers."""


@dataclass(frozen=True, slots=True, eq=False)
class Propagated(Point):
    """A Point whose gradient followed rules, and the logits where the target was chosen from them."""

    logits: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What came of a comparison with references: the attribution, and how far the score lies from their mean score (N,)."""

    features: Features
    difference: Tensor
    logits: Tensor | None = None


def propagated(
    site: Site, x: Features, rules: Rules, *, on_unruled: str = "error", absorbed: dict[str, float] | None = None
) -> Propagated:
    """Score, features and ruled gradient at x, from one forward and one backward.

    What the rules keep to themselves is added to `absorbed`, by reason, over all rows (padding too).
    """
    audit = _Audit(on_unruled, site.passes)

    def ask(site: Site, x: Features, rows: Rows) -> Told:
        with torch.enable_grad(), _Ruled(site, x, rows, rules, counts=absorbed is not None) as ruled:
            audit.of(ruled)
            ruled.lending.end()
            gradient = gradient_of(ruled.score, ruled.features)
        if absorbed is not None:
            for reason, amount in ruled.lending.absorbed.items():
                absorbed[reason] = absorbed.get(reason, 0.0) + float(amount)
        return (
            accumulated(ruled.score.detach()),
            at_least_float32(gradient),
            *site.telling(ruled.features),
            *ruled.told,
        )

    def one_pass(rows: Rows) -> Told:
        if absorbed is not None or not audit.is_strict:  # what must be told of every pass
            return ask(site, x[rows], rows)
        return site.replayed((propagated, rules), ask, x[rows], rows)

    score, gradient, *told = site.passes.over(len(x), one_pass)
    features, logits = site.credited(x, told)
    return Propagated(parts_of(score)[0], features, gradient, *logits)


def compared(
    site: Site, x: Features, references: Sequence[Features], rules: Rules, credit: Credit, *, on_unruled: str = "error"
) -> Compared:
    """The mean over the references of what `credit` makes of each one's multipliers.

    The images go forward once. A reference goes forward without gradients, with a row for each image, or once where one
    row stands for all of them. Gradients flow back once for each.
    """
    audit, recordings = _Audit(on_unruled, site.passes), dict[int, _Reference]()

    def ask(site: Site, x: Features, rows: Rows, *references: Features) -> Told:
        with torch.enable_grad():
            ruled = _Ruled(site, x, rows, rules)
        with ruled:
            return answered(site, ruled, references)

    def answered(site: Site, ruled: _Ruled, references: Sequence[Features]) -> Told:
        total, starts = torch.zeros(()), []
        # A recording of a pass must hold all that is its own.
        known = recordings if site.passes.graphs is None else {}
        for number in range(len(references)):
            start = _paired(site, ruled, references[number], known, number)
            if number == 0:
                audit.of(ruled)
            if number + 1 == len(references):
                ruled.lending.end()
            with torch.enable_grad():
                multiplier = gradient_of(ruled.score, ruled.features, retain_graph=number + 1 < len(references))
            total = total + credit(*map(at_least_float32, (multiplier, ruled.features.detach(), start.features)))
            starts.append(start.score(ruled))
        difference = accumulated(ruled.score.detach()) - sum(starts) / len(references)
        return total / len(references), difference, *ruled.told

    def one_pass(rows: Rows) -> Told:
        of_rows = [
            reference[:1] if site.is_one_image(reference) else reference[rows]
            for reference in (expanded(reference, x) for reference in references)
        ]
        if not audit.is_strict:
            return ask(site, x[rows], rows, *of_rows)
        return site.replayed((compared, rules, credit), ask, x[rows], rows, *of_rows)

    features, difference, *told = site.passes.over(len(x), one_pass)
    return Compared(features, parts_of(difference)[0], *told)


class _Ruled:
    """The pass over some rows, x being theirs, with rules lent to it; in memory until it is left."""

    def __init__(self, site: Site, x: Features, rows: Rows, rules: Rules, *, counts: bool = False) -> None:
        self.site, self.x, self.rows, self.rules = site, x, rows, rules
        explained = site.explained.rows(rows)
        with lent(rules, counts=counts) as self.lending:
            output, self.features = site.forward(x, rows)
            with self.lending.aside():
                self.explained = explained.settled(output)
            self.score = self.explained.of(output)
        self.told = (output.detach(),) if isinstance(explained, Aiming) else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.lending.forget()


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What a pass at a reference told, and its calls, for other passes over images to be paired with."""

    features: Features
    output: Any
    own_score: Tensor
    calls: Sequence[Call]

    def score(self, ruled: _Ruled) -> Tensor:
        """Of each image's target."""
        count = len(ruled.score)
        if ruled.explained.target is None:
            return accumulated(self.own_score).expand(count)
        return accumulated(ruled.explained.of(self.output.expand(count, *self.output.shape[1:])))


def _paired(
    site: Site, ruled: _Ruled, reference: Features, recordings: dict[int, _Reference], number: int
) -> _Reference:
    """The reference's side of each call; a single row is repeated where the model mixes rows with windows or heads."""
    if site.is_one_image(expanded(reference, ruled.x)):
        if number in recordings and ruled.lending.adopt(recordings[number].calls):
            return recordings[number]
        try:
            recordings[number] = _reference_pass(site, ruled, reference[:1], _first(ruled.rows))
            return recordings[number]
        except RowsDiffer:
            pass
    return _reference_pass(site, ruled, expanded(reference, ruled.x), ruled.rows)


def _reference_pass(site: Site, ruled: _Ruled, reference: Features, rows: Rows) -> _Reference:
    with ruled.lending.reference():
        output, features = site.forward(reference, rows)
        score = ruled.explained.rows(slice(0, len(reference))).of(output)
    return _Reference(features.detach(), output, score, ruled.lending.recording())


def _first(rows: Rows) -> Rows:
    return slice(rows.start, rows.start + 1) if isinstance(rows, slice) else rows[:1]


def check_on_unruled(choice: str) -> None:
    """What may be done about an operation that no rule covers."""
    if choice not in ("error", "gradient"):
        raise AttributionError(f"on_unruled={choice!r} not understood; use 'error' or 'gradient'")


class _Audit:
    """Nothing nonlinear may have passed without a rule: an error, or with on_unruled="gradient" a warning that is kept."""

    def __init__(self, on_unruled: str, passes: Passes) -> None:
        self.on_unruled, self.passes = on_unruled, passes
        self.is_strict = on_unruled == "error"
        self._covered: list[Callable[..., Any]] | None = None

    def of(self, ruled: _Ruled) -> None:
        """Look at a pass that is over; one that made the calls of a pass found in order is in order."""
        rules, lending = ruled.rules, ruled.lending
        if not rules.audited:
            if not any(call.rule for call in lending.calls):
                _warn(f"{rules.name} met no rectifier in the model: its map is the plain gradient", self.passes)
            return
        if lending.functions == self._covered and not lending.uncovered:
            return
        found = list(lending.uncovered)
        if uncovered(ruled.score, parts_of(ruled.features), rules.by_gradient):
            # Only anomaly mode knows where a node was made; it is slow, so the pass runs again in it.
            with torch.autograd.set_detect_anomaly(True, check_nan=False), torch.enable_grad():
                again = _Ruled(ruled.site, ruled.x, ruled.rows, rules)
            with again:
                found += uncovered(again.score, parts_of(again.features), rules.by_gradient)
        if not found:
            self._covered = lending.functions
            return
        places = [str(one) for one in dict.fromkeys(found)]
        operations = "; ".join(places[:3]) + (f"; and {len(places) - 3} more" if len(places) > 3 else "")
        if self.on_unruled != "gradient":
            raise UncoveredOperationError(
                f"no rule of {rules.name} covers {operations}: call it as a torch function, or pass on_unruled='gradient'"
            )
        _warn(f"no rule of {rules.name} covers {operations}: the plain gradient passes there", self.passes)


def _warn(message: str, passes: Passes) -> None:
    if message not in passes.warnings:
        passes.warnings.append(message)
        warnings.warn(message, stacklevel=2)
