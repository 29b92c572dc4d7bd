"""Captum's classes that credit a layer's activations."""

from functools import partial

from attribution.captum_names.bases import GradientAttribution, LayerAttribution, PerturbationAttribution
from attribution.captum_names.contributions import DeepLift, DeepLiftShap
from attribution.captum_names.formula import ChannelGradCam, Formula
from attribution.captum_names.perturbed import Permutation, Perturbation, permute_rows
from attribution.captum_names.relevance import LRP, rules_of
from attribution.captum_names.row import (
    ARGUMENTS,
    AT,
    AT_BY_INPUTS,
    CUSTOM,
    DELTA,
    GRAD,
    PATH,
    SAMPLES,
    TARGET,
    TO_LAYER,
    Row,
    takes,
)
from attribution.captum_names.tunnel import GradientShap
from attribution.methods.activation import Activation
from attribution.methods.conductance import Conductance
from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.internal_influence import InternalInfluence
from attribution.methods.saliency import Saliency

LAYER_ROWS: dict[str, Row] = {
    "LayerIntegratedGradients": Row(
        bases=(LayerAttribution, GradientAttribution),
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **DELTA, **TO_LAYER, **GRAD),
        answer=Formula(method=IntegratedGradients, where="layer"),
    ),
    "LayerGradientShap": Row(
        bases=(LayerAttribution, GradientAttribution),
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", "baselines", **SAMPLES, **TARGET, **DELTA, **TO_LAYER, seed=None),
        answer=GradientShap("layer"),
    ),
    "LayerGradientXActivation": Row(
        bases=(LayerAttribution, GradientAttribution),
        constructor=takes("forward_func", "layer", device_ids=None, multiply_by_inputs=True, memory_efficient=False),
        attribute=takes("inputs", **TARGET, **TO_LAYER, **GRAD),
        answer=Formula(method=InputXGradient, where="layer", local=Saliency(abs=False)),
    ),
    "LayerActivation": Row(
        bases=(LayerAttribution,),
        constructor=AT,
        attribute=takes("inputs", **ARGUMENTS, **TO_LAYER),
        answer=Formula(method=Activation, where="layer"),
        multiplies=True,
    ),
    "LayerConductance": Row(
        bases=(LayerAttribution, GradientAttribution),
        constructor=AT,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **DELTA, **TO_LAYER, **GRAD),
        answer=Formula(method=Conductance, where="layer"),
        multiplies=True,
    ),
    "InternalInfluence": Row(
        bases=(LayerAttribution, GradientAttribution),
        constructor=AT,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **TO_LAYER, **GRAD),
        answer=Formula(method=InternalInfluence, where="layer"),
    ),
    "LayerGradCam": Row(
        bases=(LayerAttribution, GradientAttribution),
        constructor=AT,
        attribute=takes("inputs", **TARGET, **TO_LAYER, relu_attributions=False, attr_dim_summation=True, **GRAD),
        answer=Formula(
            method=ChannelGradCam,
            where="layer",
            renamed={"relu": "relu_attributions", "summed": "attr_dim_summation"},
        ),
    ),
    "LayerFeatureAblation": Row(
        bases=(LayerAttribution, PerturbationAttribution),
        constructor=AT,
        attribute=takes(
            "inputs", layer_baselines=None, **TARGET, layer_mask=None, **TO_LAYER, perturbations_per_eval=1
        ),
        answer=Perturbation(method=FeatureAblation, where="layer"),
    ),
    "LayerFeaturePermutation": Row(
        bases=(LayerAttribution, "FeaturePermutation"),
        constructor=AT,
        attribute=takes("inputs", **TARGET, layer_mask=None, perturbations_per_eval=1),
        answer=Perturbation(method=partial(Permutation, permute_rows), where="layer"),
    ),
    "LayerDeepLift": Row(
        bases=(LayerAttribution, "DeepLift"),
        constructor=takes("model", "layer", multiply_by_inputs=True),
        attribute=takes("inputs", baselines=None, **TARGET, **DELTA, **TO_LAYER, **CUSTOM, **GRAD),
        answer=DeepLift("layer"),
    ),
    "LayerDeepLiftShap": Row(
        bases=("LayerDeepLift", "DeepLiftShap"),
        constructor=takes("model", "layer", multiply_by_inputs=True),
        attribute=takes("inputs", "baselines", **TARGET, **DELTA, **TO_LAYER, **CUSTOM),
        answer=DeepLiftShap("layer"),
    ),
    "LayerLRP": Row(
        bases=("LRP", LayerAttribution),
        constructor=takes("model", "layer"),
        attribute=takes("inputs", **TARGET, **DELTA, **TO_LAYER, verbose=False),
        answer=LRP("layer"),
        checked=lambda owner: rules_of(owner.model),
    ),
}
