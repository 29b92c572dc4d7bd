"""CAPTUM: every class of Captum's by name, with its arguments and the Method and place that answer for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from typing import Any

from attribution.captum_names.formula import Answer, ChannelGradCam, Formula
from attribution.captum_names.lime import Surrogates, lime, lime_base
from attribution.captum_names.perturbed import Permutation, Perturbation, permute_rows
from attribution.captum_names.tunnel import RANDOM_POINT, GradientShap, noise_tunnel
from attribution.captum_names.windows import occlusion
from attribution.methods.activation import Activation
from attribution.methods.conductance import Conductance, NeuronConductance
from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.internal_influence import InternalInfluence
from attribution.methods.kernel_shap import KernelShap
from attribution.methods.saliency import Saliency
from attribution.methods.shapley_value_sampling import ShapleyValueSampling
from attribution.methods.shapley_values import ShapleyValues


def takes(*required: str, **optional: Any) -> Signature:
    """A signature in Captum's order: what is required, then defaults; `seed` is ours, by keyword only; `kwargs` is any."""
    kinds = {"seed": Parameter.KEYWORD_ONLY, "kwargs": Parameter.VAR_KEYWORD}
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in required]
    for name, default in optional.items():
        kind = kinds.get(name, Parameter.POSITIONAL_OR_KEYWORD)
        parameters.append(Parameter(name, kind, default=Parameter.empty if name == "kwargs" else default))
    return Signature(parameters)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One class: the classes it is derived from, what its constructor and `attribute` take, and what answers."""

    bases: tuple[str, ...]
    constructor: Signature
    attribute: Signature
    answer: Answer
    multiplies: bool | None = None
    """Whether the inputs are a factor of the result, where the constructor does not ask."""

    @property
    def summary(self) -> str:
        """The first line of the docstring of what answers."""
        answer: Any = self.answer.method if isinstance(self.answer, Formula) else self.answer
        return (getattr(answer, "func", answer).__doc__ or "").strip().splitlines()[0]


ARGUMENTS = {"additional_forward_args": None}
TARGET = {"target": None, **ARGUMENTS}
SAMPLES = {"n_samples": 5, "stdevs": 0.0}
PATH = {"n_steps": 50, "method": "gausslegendre", "internal_batch_size": None}
DELTA = {"return_convergence_delta": False}
TO_LAYER = {"attribute_to_layer_input": False}
TO_NEURON = {"attribute_to_neuron_input": False}
GRAD = {"grad_kwargs": None}
PROGRESS = {"perturbations_per_eval": 1, "show_progress": False}
SURROGATE = takes(
    "inputs",
    baselines=None,
    **TARGET,
    feature_mask=None,
    n_samples=25,
    perturbations_per_eval=1,
    return_input_shape=True,
    show_progress=False,
    seed=None,
)
QUADRATURE = {"n_steps": "n_steps", "method": "method"}
QUADRATURE_BY_INPUTS = {**QUADRATURE, "multiply_by_inputs": "multiply_by_inputs"}
GRADIENT_ALONE = Saliency(abs=False)
FORWARD = takes("forward_func")
FORWARD_BY_INPUTS = takes("forward_func", multiply_by_inputs=True)
AT = takes("forward_func", "layer", device_ids=None)
AT_BY_INPUTS = takes("forward_func", "layer", device_ids=None, multiply_by_inputs=True)

GRADIENT, PERTURBATION = ("GradientAttribution",), ("PerturbationAttribution",)
LAYER, NEURON = ("LayerAttribution", "GradientAttribution"), ("NeuronAttribution", "GradientAttribution")

CAPTUM: dict[str, Row] = {
    "IntegratedGradients": Row(
        bases=GRADIENT,
        constructor=FORWARD_BY_INPUTS,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **DELTA),
        answer=Formula(method=IntegratedGradients, fields=QUADRATURE_BY_INPUTS),
    ),
    "Saliency": Row(
        bases=GRADIENT,
        constructor=FORWARD,
        attribute=takes("inputs", target=None, abs=True, additional_forward_args=None),
        answer=Formula(method=Saliency, fields={"abs": "abs"}),
    ),
    "InputXGradient": Row(
        bases=GRADIENT,
        constructor=FORWARD,
        attribute=takes("inputs", **TARGET),
        answer=Formula(method=InputXGradient),
        multiplies=True,
    ),
    "InputBaselineXGradient": Row(
        bases=GRADIENT,
        constructor=FORWARD_BY_INPUTS,
        attribute=takes("inputs", baselines=None, **TARGET, **DELTA, seed=None),
        answer=RANDOM_POINT,
    ),
    "GradientShap": Row(
        bases=GRADIENT,
        constructor=FORWARD_BY_INPUTS,
        attribute=takes("inputs", "baselines", **SAMPLES, **TARGET, **DELTA, seed=None),
        answer=GradientShap("input"),
    ),
    "NoiseTunnel": Row(
        bases=("AroundAnother",),
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
    "LayerIntegratedGradients": Row(
        bases=LAYER,
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **DELTA, **TO_LAYER, **GRAD),
        answer=Formula(method=IntegratedGradients, where="layer", fields=QUADRATURE_BY_INPUTS),
    ),
    "LayerGradientShap": Row(
        bases=LAYER,
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", "baselines", **SAMPLES, **TARGET, **DELTA, **TO_LAYER, seed=None),
        answer=GradientShap("layer"),
    ),
    "LayerGradientXActivation": Row(
        bases=LAYER,
        constructor=takes("forward_func", "layer", device_ids=None, multiply_by_inputs=True, memory_efficient=False),
        attribute=takes("inputs", **TARGET, **TO_LAYER, **GRAD),
        answer=Formula(method=InputXGradient, where="layer", local=GRADIENT_ALONE),
    ),
    "LayerActivation": Row(
        bases=("LayerAttribution",),
        constructor=AT,
        attribute=takes("inputs", **ARGUMENTS, **TO_LAYER),
        answer=Formula(method=Activation, where="layer"),
        multiplies=True,
    ),
    "LayerConductance": Row(
        bases=LAYER,
        constructor=AT,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **DELTA, **TO_LAYER, **GRAD),
        answer=Formula(method=Conductance, where="layer", fields=QUADRATURE),
        multiplies=True,
    ),
    "InternalInfluence": Row(
        bases=LAYER,
        constructor=AT,
        attribute=takes("inputs", baselines=None, **TARGET, **PATH, **TO_LAYER, **GRAD),
        answer=Formula(method=InternalInfluence, where="layer", fields=QUADRATURE),
    ),
    "LayerGradCam": Row(
        bases=LAYER,
        constructor=AT,
        attribute=takes("inputs", **TARGET, **TO_LAYER, relu_attributions=False, attr_dim_summation=True, **GRAD),
        answer=Formula(
            method=ChannelGradCam,
            where="layer",
            fields={"relu_attributions": "relu", "attr_dim_summation": "summed"},
        ),
    ),
    "NeuronGradient": Row(
        bases=NEURON,
        constructor=AT,
        attribute=takes("inputs", "neuron_selector", **ARGUMENTS, **TO_NEURON),
        answer=Formula(method=Saliency, where="neuron", local=GRADIENT_ALONE),
    ),
    "NeuronIntegratedGradients": Row(
        bases=NEURON,
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", "neuron_selector", baselines=None, **ARGUMENTS, **PATH, **TO_NEURON),
        answer=Formula(method=IntegratedGradients, where="neuron", fields=QUADRATURE_BY_INPUTS),
    ),
    "NeuronGradientShap": Row(
        bases=NEURON,
        constructor=AT_BY_INPUTS,
        attribute=takes("inputs", "neuron_selector", "baselines", **SAMPLES, **ARGUMENTS, **TO_NEURON, seed=None),
        answer=GradientShap("neuron"),
    ),
    "NeuronConductance": Row(
        bases=NEURON,
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
        answer=Formula(method=NeuronConductance, where="through", fields=QUADRATURE_BY_INPUTS),
    ),
    "FeatureAblation": Row(
        bases=PERTURBATION,
        constructor=FORWARD,
        attribute=takes("inputs", baselines=None, **TARGET, feature_mask=None, **PROGRESS, kwargs=None),
        answer=Perturbation(method=FeatureAblation, keeps_whole_numbers=True),
    ),
    "FeaturePermutation": Row(
        bases=("FeatureAblation",),
        constructor=takes("forward_func", perm_func=permute_rows),
        attribute=takes("inputs", **TARGET, feature_mask=None, **PROGRESS, kwargs=None),
        answer=Perturbation(method=Permutation, fields={"perm_func": "permute"}, keeps_whole_numbers=True),
    ),
    "Occlusion": Row(
        bases=("FeatureAblation",),
        constructor=FORWARD,
        attribute=takes("inputs", "sliding_window_shapes", strides=None, baselines=None, **TARGET, **PROGRESS),
        answer=occlusion,
    ),
    "ShapleyValueSampling": Row(
        bases=PERTURBATION,
        constructor=FORWARD,
        attribute=takes("inputs", baselines=None, **TARGET, feature_mask=None, n_samples=25, **PROGRESS, seed=None),
        answer=Perturbation(method=ShapleyValueSampling, fields={"n_samples": "n_samples"}, keeps_outputs=True),
    ),
    "ShapleyValues": Row(
        bases=("ShapleyValueSampling",),
        constructor=FORWARD,
        attribute=takes("inputs", baselines=None, **TARGET, feature_mask=None, **PROGRESS),
        answer=Perturbation(method=ShapleyValues, keeps_outputs=True),
    ),
    "LimeBase": Row(
        bases=PERTURBATION,
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
    "LayerFeatureAblation": Row(
        bases=("LayerAttribution", "PerturbationAttribution"),
        constructor=AT,
        attribute=takes(
            "inputs", layer_baselines=None, **TARGET, layer_mask=None, **TO_LAYER, perturbations_per_eval=1
        ),
        answer=Perturbation(method=FeatureAblation, where="layer"),
    ),
    "LayerFeaturePermutation": Row(
        bases=("LayerAttribution", "FeaturePermutation"),
        constructor=AT,
        attribute=takes("inputs", **TARGET, layer_mask=None, perturbations_per_eval=1),
        answer=Perturbation(method=partial(Permutation, permute_rows), where="layer"),
    ),
    "NeuronFeatureAblation": Row(
        bases=("NeuronAttribution", "PerturbationAttribution"),
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
}
