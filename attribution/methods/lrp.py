"""Layer-wise relevance propagation."""

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from attribution.bundle import Features
from attribution.errors import AttributionError, nearest
from attribution.method import Attributed, Method
from attribution.propagation import Rules
from attribution.ruled import check_on_unruled, propagated
from attribution.rules.linear import Alpha1Beta0, Epsilon, Gamma, LinearRule
from attribution.rules.relevance import relevance
from attribution.site import Site

RULES = ("epsilon", "gamma", "alpha1beta0")


@dataclass(frozen=True)
class LRP(Method):
    """Hand the score back, each operation sharing its relevance among its inputs by what they contributed.

    `rule` is for convolutions and linear layers; `attribution/rules/relevance.py` says what every other operation does:
    sums share by contribution, products of two activations halve, a normalisation's scale counts as constant, a maximum
    gives to its winner. What biases take, and with them a nonlinearity's value at zero, is the convergence delta.
    """

    paper = "Bach et al. 2015, doi:10.1371/journal.pone.0130140, eq. 58 and 60; Montavon et al. 2019, sec. 10.2"
    axioms = frozenset({"sensitivity_b"})
    places = frozenset({"input", "layer"})
    predicts = True
    folds = False
    captum = ("LRP", "LayerLRP")
    rule: str = "epsilon"
    eps: float = 1e-9
    gamma: float = 0.25
    on_unruled: str = "error"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise AttributionError(f"lrp(rule={self.rule!r}) not found; {nearest(self.rule, RULES)}")
        super().__post_init__()
        check_on_unruled(self.on_unruled)

    def attribute(self, site: Site, x: Features) -> Features:
        return self.attributed(site, x).features

    def attributed(self, site: Site, x: Features) -> Attributed:
        """The attribution, the score that it starts from, and the logits of the same pass."""
        point = propagated(site, x, _rules(self), on_unruled=self.on_unruled)
        return Attributed(point.features * point.gradient, difference=point.score, logits=point.logits)

    def linear_rule(self) -> LinearRule:
        """The rule of convolutions and linear layers."""
        rules: dict[str, LinearRule] = {
            "epsilon": Epsilon(self.eps),
            "gamma": Gamma(self.gamma),
            "alpha1beta0": Alpha1Beta0(),
        }
        return rules[self.rule]

    def explained_difference(self, site: Site, x: Features) -> Tensor:
        return site.score(x)


@cache
def _rules(method: LRP) -> Rules:
    """One object for equal methods, by which captured passes know each other."""
    return relevance(method.linear_rule())
