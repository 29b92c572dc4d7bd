"""DeepLIFT: each operation shares out how far its output lies from that of a reference image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attribution.bundle import Features
from attribution.method import Attributed, Cost, Method
from attribution.ruled import check_on_unruled, compared
from attribution.rules.rescale import RESCALE
from attribution.site import Site

if TYPE_CHECKING:
    from attribution.methods.deep_lift_shap import DeepLiftShap


@dataclass(frozen=True)
class DeepLift(Method):
    """Share out the score's difference from the baseline's, operation by operation (Rescale rule), exactly.

    Products of two activations, attention, softmax, normalisations and max-pooling have rules of their own that keep
    completeness (`attribution/rules/difference.py`). An operation without a rule is an error; with
    `on_unruled="gradient"` a warning, and the plain gradient passes there.
    """

    paper = "Shrikumar et al. 2017, arXiv:1704.02685, section 3"
    axioms = frozenset({"completeness", "sensitivity_a", "sensitivity_b"})
    predicts = True
    short = ("deeplift",)
    default_baseline = "zero"
    captum = ("DeepLift", "LayerDeepLift", "NeuronDeepLift")
    multiply_by_inputs: bool = True
    on_unruled: str = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_on_unruled(self.on_unruled)

    def attribute(self, site: Site, x: Features, baseline: Features) -> Features:
        return self.attributed(site, x, baseline).features

    def attributed(self, site: Site, x: Features, baseline: Features) -> Attributed:
        """The attribution, the difference that it shares out, and the logits of the same pass."""
        return shared_out(self, site, x, [baseline])

    def cost(self, image_shape: tuple[int, ...]) -> Cost:
        return Cost(forward=1, forward_backward=1)


def shared_out(method: DeepLift | DeepLiftShap, site: Site, x: Features, references: Sequence[Features]) -> Attributed:
    """The mean over the references, and what the same passes have shown besides."""
    credit = contribution if method.multiply_by_inputs else multiplier
    found = compared(site, x, references, RESCALE, credit, on_unruled=method.on_unruled)
    return Attributed(found.features, difference=found.difference if method.holds_shares else None, logits=found.logits)


def contribution(multiplier: Features, end: Features, start: Features) -> Features:
    """How far a feature went, times what each step is worth.  eq. 2"""
    return multiplier * (end - start)


def multiplier(multiplier: Features, _end: Features, _start: Features) -> Features:
    """What each step is worth."""
    return multiplier
