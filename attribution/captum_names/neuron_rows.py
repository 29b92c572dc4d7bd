"""Captum's classes that credit the inputs for one neuron, or for what the score gets through it."""

from functools import partial

from attribution.captum_names.bases import GradientAttribution, NeuronAttribution, PerturbationAttribution
from attribution.captum_names.contributions import DeepLift, DeepLiftShap
from attribution.captum_names.formula import Formula
from attribution.captum_names.perturbed import Perturbation
from attribution.captum_names.row import (
    ARGUMENTS,
    AT,
    AT_BY_INPUTS,
    CUSTOM,
    GRAD,
    PATH,
    SAMPLES,
    TARGET,
    TO_NEURON,
    Row,
    takes,
)
from attribution.captum_names.tunnel import GradientShap
from attribution.methods.conductance import NeuronConductance
from attribution.methods.deconvolution import Deconvolution
from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.saliency import Saliency

NEURON_ROWS: dict[str, Row] = {
    "NeuronGradient": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=AT,
        attribute=takes("inputs", "neuron_selector", **ARGUMENTS, **TO_NEURON),
        answer=Formula(method=partial(Saliency, abs=False), where="neuron"),
    ),
    "NeuronIntegratedGradients": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", "neuron_selector", baselines=None, **ARGUMENTS, **PATH, **TO_NEURON),
        answer=Formula(method=IntegratedGradients, where="neuron"),
    ),
    "NeuronGradientShap": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", "neuron_selector", "baselines", **SAMPLES, **ARGUMENTS, **TO_NEURON, seed=None),
        answer=GradientShap("neuron"),
    ),
    "NeuronConductance": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=AT_BY_INPUTS,
        attribute=takes(
            "inputs",
            "neuron_selector",
            baselines=None,
            **TARGET,
            **{**PATH, "method": "riemann_trapezoid"},
            **TO_NEURON,
            **GRAD,
        ),
        answer=Formula(method=NeuronConductance, where="through"),
    ),
    "NeuronFeatureAblation": Row(
        bases=(NeuronAttribution, PerturbationAttribution),
        constructor=AT,
        attribute=takes(
            "inputs",
            "neuron_selector",
            baselines=None,
            **ARGUMENTS,
            feature_mask=None,
            **TO_NEURON,
            perturbations_per_eval=1,
        ),
        answer=Perturbation(method=FeatureAblation, where="neuron"),
    ),
    "NeuronDeepLift": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=takes("model", "layer", multiply_by_inputs=True),
        attribute=takes("inputs", "neuron_selector", baselines=None, **ARGUMENTS, **TO_NEURON, **CUSTOM),
        answer=DeepLift("neuron"),
    ),
    "NeuronDeepLiftShap": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=takes("model", "layer", multiply_by_inputs=True),
        attribute=takes("inputs", "neuron_selector", "baselines", **ARGUMENTS, **TO_NEURON, **CUSTOM),
        answer=DeepLiftShap("neuron"),
    ),
    "NeuronGuidedBackprop": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=takes("model", "layer", device_ids=None),
        attribute=takes("inputs", "neuron_selector", **ARGUMENTS, **TO_NEURON),
        answer=Formula(method=GuidedBackprop, where="neuron"),
    ),
    "NeuronDeconvolution": Row(
        bases=(NeuronAttribution, GradientAttribution),
        constructor=takes("model", "layer", device_ids=None),
        attribute=takes("inputs", "neuron_selector", **ARGUMENTS, **TO_NEURON),
        answer=Formula(method=Deconvolution, where="neuron"),
    ),
}
