"""Captum's names: code and tests written for `captum.attr` and `captum.metrics` run unchanged when the import is swapped.

Each class is a thin border around the engine, made from one row of `table.CAPTUM`; docs/captum.md lists what differs from
Captum, and why. `from attribution import IntegratedGradients` is the same class, imported when it is asked for.
"""

from typing import Any

from attribution.captum_names.bases import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    NeuronAttribution,
    PerturbationAttribution,
)
from attribution.captum_names.classes import build
from attribution.captum_names.lime import get_exp_kernel_similarity_function
from attribution.captum_names.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from attribution.captum_names.product_baselines import ProductBaselines
from attribution.captum_names.relevance import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule

CLASSES = build()
globals().update(CLASSES)

__all__ = [  # noqa: PLE0604  # names from the table
    "Alpha1_Beta0_Rule",
    "Attribution",
    "EpsilonRule",
    "GammaRule",
    "GradientAttribution",
    "IdentityRule",
    "InternalAttribution",
    "LayerAttribution",
    "NeuronAttribution",
    "PerturbationAttribution",
    "ProductBaselines",
    "get_exp_kernel_similarity_function",
    "infidelity",
    "infidelity_perturb_func_decorator",
    "sensitivity_max",
    *CLASSES,
]


def __getattr__(name: str) -> Any:
    """Only for type checkers, which can't see the classes made from the table."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
