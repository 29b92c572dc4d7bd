"""Captum's classes that credit the inputs for the model's score."""

from attribution.captum_names.bases import (
    AroundAnother,
    GradientAttribution,
    ModifiedReluGradientAttribution,
    PerturbationAttribution,
)
from attribution.captum_names.contributions import DeepLift, DeepLiftShap
from attribution.captum_names.formula import Formula
from attribution.captum_names.guided import guided_grad_cam
from attribution.captum_names.lime import Surrogates, check_transforms, lime, lime_base
from attribution.captum_names.perturbed import Permutation, Perturbation, permute_rows
from attribution.captum_names.relevance import LRP, RelevanceAttribution, rules_of
from attribution.captum_names.row import (
    CUSTOM,
    DELTA,
    FORWARD,
    FORWARD_BY_INPUTS,
    MODEL,
    PATH,
    PROGRESS,
    SAMPLES,
    SURROGATE,
    TARGET,
    TO_LAYER,
    Row,
    takes,
)
from attribution.captum_names.tunnel import RANDOM_POINT, GradientShap, noise_tunnel
from attribution.captum_names.windows import occlusion
from attribution.methods.deconvolution import Deconvolution
from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.kernel_shap import KernelShap
from attribution.methods.saliency import Saliency
from attribution.methods.shapley_value_sampling import ShapleyValueSampling
from attribution.methods.shapley_values import ShapleyValues

INPUT_ROWS: dict[str, Row] = {
    "IntegratedGradients": Row(
        bases=(GradientAttribution,),
        constructor=FORWARD_BY_INPUTS,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **DELTA),
        answer=Formula(method=IntegratedGradients),
    ),
    "Saliency": Row(
        bases=(GradientAttribution,),
        constructor=FORWARD,
        attribute=takes("inputs", target=None, abs=True, additional_forward_args=None),
        answer=Formula(method=Saliency),
    ),
    "InputXGradient": Row(
        bases=(GradientAttribution,),
        constructor=FORWARD,
        attribute=takes("inputs", **TARGET),
        answer=Formula(method=InputXGradient),
        multiplies=True,
    ),
    "InputBaselineXGradient": Row(
        bases=(GradientAttribution,),
        constructor=FORWARD_BY_INPUTS,
        attribute=takes("inputs", baselines=None, **TARGET, **DELTA, seed=None),
        answer=RANDOM_POINT,
    ),
    "GradientShap": Row(
        bases=(GradientAttribution,),
        constructor=FORWARD_BY_INPUTS,
        attribute=takes("inputs", "baselines", **SAMPLES, **TARGET, **DELTA, seed=None),
        answer=GradientShap("input"),
    ),
    "NoiseTunnel": Row(
        bases=(AroundAnother,),
        constructor=takes("attribution_method"),
        attribute=takes(
            "inputs",
            nt_type="smoothgrad",
            nt_samples=5,
            nt_samples_batch_size=None,
            stdevs=1.0,
            draw_baseline_from_distrib=False,
            seed=None,
            kwargs=None,
        ),
        answer=noise_tunnel,
    ),
    "FeatureAblation": Row(
        bases=(PerturbationAttribution,),
        constructor=FORWARD,
        attribute=takes("inputs", baselines=None, **TARGET, feature_mask=None, **PROGRESS, kwargs=None),
        answer=Perturbation(method=FeatureAblation, keeps_whole_numbers=True),
    ),
    "FeaturePermutation": Row(
        bases=("FeatureAblation",),
        constructor=takes("forward_func", perm_func=permute_rows),
        attribute=takes("inputs", **TARGET, feature_mask=None, **PROGRESS, kwargs=None),
        answer=Perturbation(method=Permutation, renamed={"permute": "perm_func"}, keeps_whole_numbers=True),
    ),
    "Occlusion": Row(
        bases=("FeatureAblation",),
        constructor=FORWARD,
        attribute=takes("inputs", "sliding_window_shapes", strides=None, baselines=None, **TARGET, **PROGRESS),
        answer=occlusion,
    ),
    "ShapleyValueSampling": Row(
        bases=(PerturbationAttribution,),
        constructor=FORWARD,
        attribute=takes("inputs", baselines=None, **TARGET, feature_mask=None, n_samples=25, **PROGRESS, seed=None),
        answer=Perturbation(method=ShapleyValueSampling, keeps_outputs=True),
    ),
    "ShapleyValues": Row(
        bases=("ShapleyValueSampling",),
        constructor=FORWARD,
        attribute=takes("inputs", baselines=None, **TARGET, feature_mask=None, **PROGRESS),
        answer=Perturbation(method=ShapleyValues, keeps_outputs=True),
    ),
    "LimeBase": Row(
        bases=(PerturbationAttribution,),
        constructor=takes(
            "forward_func",
            "interpretable_model",
            "similarity_func",
            "perturb_func",
            "perturb_interpretable_space",
            "from_interp_rep_transform",
            "to_interp_rep_transform",
        ),
        attribute=takes("inputs", **TARGET, n_samples=50, **PROGRESS, kwargs=None),
        answer=lime_base,
        checked=check_transforms,
        multiplies=False,
    ),
    "Lime": Row(
        bases=("LimeBase",),
        constructor=takes("forward_func", interpretable_model=None, similarity_func=None, perturb_func=None),
        attribute=SURROGATE,
        answer=lime,
        multiplies=False,
    ),
    "KernelShap": Row(
        bases=("Lime",),
        constructor=FORWARD,
        attribute=SURROGATE,
        answer=Surrogates(method=KernelShap),
        multiplies=False,
    ),
    "DeepLift": Row(
        bases=(GradientAttribution,),
        constructor=takes("model", multiply_by_inputs=True, eps=1e-10),
        attribute=takes("inputs", baselines=None, **TARGET, **DELTA, **CUSTOM),
        answer=DeepLift(),
    ),
    "DeepLiftShap": Row(
        bases=("DeepLift",),
        constructor=takes("model", multiply_by_inputs=True),
        attribute=takes("inputs", "baselines", **TARGET, **DELTA, **CUSTOM),
        answer=DeepLiftShap(),
    ),
    "GuidedBackprop": Row(
        bases=(ModifiedReluGradientAttribution,),
        constructor=MODEL,
        attribute=takes("inputs", **TARGET),
        answer=Formula(method=GuidedBackprop),
    ),
    "Deconvolution": Row(
        bases=(ModifiedReluGradientAttribution,),
        constructor=MODEL,
        attribute=takes("inputs", **TARGET),
        answer=Formula(method=Deconvolution),
    ),
    "GuidedGradCam": Row(
        bases=(GradientAttribution,),
        constructor=takes("model", "layer", device_ids=None),
        attribute=takes("inputs", **TARGET, interpolate_mode="nearest", **TO_LAYER),
        answer=guided_grad_cam,
    ),
    "LRP": Row(
        bases=(RelevanceAttribution,),
        constructor=MODEL,
        attribute=takes("inputs", **TARGET, **DELTA, verbose=False),
        answer=LRP(),
        multiplies=True,
        checked=lambda owner: rules_of(owner.model),
    ),
}
