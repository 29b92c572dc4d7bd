"""LRP in Captum's form: a rule for each module, written on it as `module.rule`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attribution.captum_names import forms
from attribution.captum_names.asked import Asked, Where
from attribution.captum_names.bases import GradientAttribution
from attribution.captum_names.formula import Arguments
from attribution.ruled import propagated
from attribution.rules.linear import Alpha1Beta0, Epsilon, Gamma, Identity, LinearRule
from attribution.rules.relevance import relevance


class RelevanceAttribution(GradientAttribution):
    """A method that hands the score back and keeps its sum."""

    def compute_convergence_delta(self, attributions: forms.Tensors, output: Tensor) -> Tensor:  # type: ignore[override]  # Captum's signature
        """The score minus the attributions' sum, for each row: what biases and stabilisers took.  -> (N,)"""
        return output.flatten() - forms.row_sums(forms.read_inputs(attributions).parts)


class EpsilonRule:
    """Share relevance in proportion to the contributions, damped by epsilon where they cancel."""

    def __init__(self, epsilon: float = 1e-9) -> None:
        self.STABILITY_FACTOR = epsilon  # Captum's name for it


class GammaRule:
    """Let contributions of the output's own sign count 1 + gamma times."""

    def __init__(self, gamma: float = 0.25, set_bias_to_zero: bool = False) -> None:
        self.gamma, self.set_bias_to_zero = gamma, set_bias_to_zero


class Alpha1_Beta0_Rule:  # noqa: N801  # Captum's name
    """Share by positive contributions only."""

    def __init__(self, set_bias_to_zero: bool = False) -> None:
        self.set_bias_to_zero = set_bias_to_zero


class IdentityRule(EpsilonRule):
    """Leave relevance where it is, place by place."""


RULES: Mapping[str, Callable[[Any], LinearRule]] = {
    "EpsilonRule": lambda rule: Epsilon(rule.STABILITY_FACTOR),
    "GammaRule": lambda rule: Gamma(rule.gamma, rule.set_bias_to_zero),
    "Alpha1_Beta0_Rule": lambda rule: Alpha1Beta0(rule.set_bias_to_zero),
    "IdentityRule": lambda _rule: Identity(),
}
"""By name, so that Captum's own rule objects serve as well as ours."""


def rules_of(model: nn.Module) -> dict[int, LinearRule]:
    """The rules written on modules that have a weight, by the weight's id; others have one way to pass relevance on."""
    found = {}
    for name, module in model.named_modules():
        rule = getattr(module, "rule", None)
        if rule is None:
            continue
        if type(rule).__name__ not in RULES:
            raise TypeError(f"{name}.rule is a {type(rule).__name__}; use one of {', '.join(RULES)}")
        weight = getattr(module, "weight", None)
        if weight is not None:
            found[id(weight)] = RULES[type(rule).__name__](rule)
    return found


@dataclass(frozen=True)
class LRP:
    """Hand the score back, each operation sharing its relevance among its inputs by what they contributed."""

    where: Where = "input"

    def __call__(self, owner: Any, given: Arguments) -> Any:
        asked = Asked(owner, given, self.where)
        rules = relevance(Epsilon(), rules_of(owner.model))
        point = propagated(asked.site, asked.x, rules, on_unruled="gradient")
        shares = asked.packed(point.features * point.gradient)
        if not given["return_convergence_delta"]:
            return shares
        if isinstance(shares, list):
            return shares, [owner.compute_convergence_delta(own, point.score) for own in shares]
        return shares, owner.compute_convergence_delta(shares, point.score)
