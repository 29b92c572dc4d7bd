"""The attribution engine: methods are formulas over a Site. Needs torch and numpy only.

Captum's names live here too (`from attribution import IntegratedGradients, infidelity`), imported when first asked for,
so that what needs no torch does not load it.
"""

from typing import Any

CAPTUM_NAMES = (
    "Alpha1_Beta0_Rule",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EpsilonRule",
    "FeatureAblation",
    "FeaturePermutation",
    "GammaRule",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "IdentityRule",
    "InputBaselineXGradient",
    "InputXGradient",
    "IntegratedGradients",
    "InternalAttribution",
    "InternalInfluence",
    "KernelShap",
    "LRP",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LayerLRP",
    "Lime",
    "LimeBase",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronDeconvolution",
    "NeuronDeepLift",
    "NeuronDeepLiftShap",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronGuidedBackprop",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "ProductBaselines",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "get_exp_kernel_similarity_function",
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
