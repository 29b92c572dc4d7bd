"""The attribution engine: methods are formulas over a Site. Needs torch and numpy only.

Captum's names live here too (`from attribution import IntegratedGradients, infidelity`), imported when first asked for,
so that what needs no torch does not load it.
"""

from typing import Any

CAPTUM_NAMES = (
    "Attribution",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "GradientShap",
    "InputBaselineXGradient",
    "InputXGradient",
    "IntegratedGradients",
    "InternalAttribution",
    "InternalInfluence",
    "KernelShap",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "Lime",
    "LimeBase",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "ProductBaselines",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "infidelity",
    "infidelity_perturb_func_decorator",
    "sensitivity_max",
)
__all__ = [*CAPTUM_NAMES]  # noqa: PLE0604  # one list


def __getattr__(name: str) -> Any:
    """One of Captum's names, from the module that needs torch."""
    if name not in CAPTUM_NAMES:
        raise AttributeError(f"module 'attribution' has no attribute {name!r}")
    from attribution import captum_names

    return getattr(captum_names, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *CAPTUM_NAMES])
