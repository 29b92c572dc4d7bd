"""What is measured by `engine.py`: each method at its usual places, what its definition needs, and the same asked of Captum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from jobs.devices import tf32

if TYPE_CHECKING:
    from engine import Bench

Make = Callable[["Bench", int], Callable[[], object]]
"""From the bench and the rows of a pass to the command."""


@dataclass(frozen=True)
class Case:
    """A question, and the passes that its definition needs for one image, the prediction's included."""

    expression: str
    forward: float = 0
    forward_backward: float = 0
    place: str = "input"
    """input; layer: the backward ends there; tail: only what is behind it is passed."""
    once: float = 0
    """Forwards of one row for all images: references that are the same for all."""
    at_layer: float = 0
    """Forwards with a backward that ends at the layer, besides."""
    front: float = 0
    """Forwards through the whole model, besides, where `place` is a tail: they find the layer's activation, and predict."""
    metrics: tuple[str, ...] = ()
    captum_images: int | None = None
    """Captum takes these images one after the other, whatever it is given: timing a few of them tells the time of one."""
    captum: Make = field(kw_only=True, repr=False)


def as_captum_runs(command: Callable[[], object]) -> Callable[[], object]:
    """Under torch's own settings, but without TF32."""

    def run() -> object:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(mode=False)
        try:
            with tf32(allowed=False):
                return command()
        finally:
            torch.use_deterministic_algorithms(mode=before, warn_only=True)

    return run


def captum(name: str, construct: tuple[str, ...] = (), images: int | None = None, **settings: object) -> Make:
    """Captum's class with these settings; what stands as "@x" is taken from the bench."""

    def make(bench: Bench, rows: int) -> Callable[[], object]:
        import captum.attr

        x = bench.x if images is None else bench.x[:images]
        held = {
            "@target": bench.target[: len(x)],
            "@mask": bench.mask,
            "@quarters": bench.quarters,
            "@layer": bench.given.get_submodule(bench.layer),
            "@baselines": torch.cat([bench.black, bench.black - 1]),
            "@rows": rows,
            "@rows/x": max(1, rows // len(bench.x)),
        }
        explained = captum.attr.Saliency(bench.given) if name == "NoiseTunnel" else bench.given
        method = getattr(captum.attr, name)(explained, *[held[c] for c in construct])
        arguments = {
            key: held.get(value, value) if isinstance(value, str) else value for key, value in settings.items()
        }
        return as_captum_runs(lambda: method.attribute(x, **arguments))

    return make


def captum_sensitivity(bench: Bench, rows: int) -> Callable[[], object]:
    """Captum's saliency and its sensitivity."""
    from captum.attr import Saliency
    from captum.metrics import sensitivity_max

    method = Saliency(bench.given)

    def ask() -> object:
        settings = {"n_perturb_samples": 5, "max_examples_per_batch": rows}
        return method.attribute(bench.x, bench.target), sensitivity_max(
            method.attribute, bench.x, target=bench.target, **settings
        )

    return as_captum_runs(ask)


def captum_infidelity(bench: Bench, rows: int) -> Callable[[], object]:
    """Captum's saliency and its infidelity, with noise in place of cells."""
    from captum.attr import Saliency
    from captum.metrics import infidelity

    method = Saliency(bench.given)

    def perturb(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * torch.randn_like(x)
        return noise, x - noise

    def ask() -> object:
        attribution = method.attribute(bench.x, bench.target)
        settings = {"n_perturb_samples": 10, "max_examples_per_batch": rows}
        return infidelity(bench.given, perturb, bench.x, attribution, target=bench.target, **settings)

    return as_captum_runs(ask)


T = {"target": "@target"}
AT = ("@layer",)
STEPS = {"n_steps": 20, "internal_batch_size": "@rows", **T}
SAMPLED = {"perturbations_per_eval": "@rows/x", **T}
GRID = {"feature_mask": "@mask", **SAMPLED}


def windows(size: int, stride: int) -> Make:
    """Captum's occlusion over all channels."""
    return captum("Occlusion", sliding_window_shapes=(3, size, size), strides=(3, stride, stride), **SAMPLED)


CASES = [
    Case("saliency", 0, 1, captum=captum("Saliency", **T)),
    Case("input_x_gradient", 0, 1, captum=captum("InputXGradient", **T)),
    Case("integrated_gradients(n_steps=20)", 1, 20, once=1, captum=captum("IntegratedGradients", **STEPS)),
    Case(
        "gradient_shap(n_samples=10, stdev=0.1)",
        1,
        10,
        once=2,
        captum=captum("GradientShap", baselines="@baselines", n_samples=10, stdevs=0.1, **T),
    ),
    Case(
        'saliency(noise="smoothgrad(samples=10)")',
        1,
        10,
        captum=captum("NoiseTunnel", nt_samples=10, stdevs=0.1, nt_samples_batch_size="@rows/x", **T),
    ),
    Case("deep_lift", 0, 1, once=1, captum=captum("DeepLift", **T)),
    Case("deep_lift_shap", -1, 2, once=2, captum=captum("DeepLiftShap", baselines="@baselines", **T)),
    Case("lrp", 0, 1, captum=captum("LRP", **T)),
    Case("guided_backprop", 0, 1, captum=captum("GuidedBackprop", **T)),
    Case("deconvolution", 0, 1, captum=captum("Deconvolution", **T)),
    Case('guided_grad_cam(at="@")', 0, 1, at_layer=1, captum=captum("GuidedGradCam", AT, **T)),
    Case('activation(at="@")', 1, 0, captum=captum("LayerActivation", AT)),
    Case("grad_cam", 0, 1, "layer", captum=captum("LayerGradCam", AT, **T)),
    Case('input_x_gradient(at="@")', 0, 1, "layer", captum=captum("LayerGradientXActivation", AT, **T)),
    Case('deep_lift(at="@")', 0, 1, "layer", once=1, captum=captum("LayerDeepLift", AT, **T)),
    Case(
        'integrated_gradients(n_steps=20, at="@")',
        0,
        20,
        "tail",
        once=1,
        front=1,
        captum=captum("LayerIntegratedGradients", AT, **STEPS),
    ),
    Case('conductance(n_steps=20, at="@")', 0, 21, "layer", captum=captum("LayerConductance", AT, **STEPS)),
    Case('internal_influence(n_steps=20, at="@")', 1, 20, "layer", captum=captum("InternalInfluence", AT, **STEPS)),
    Case(
        'neuron_conductance(n_steps=20, of="@:0,3,3")',
        1,
        20,
        captum=captum("NeuronConductance", AT, neuron_selector=(0, 3, 3), **STEPS),
    ),
    Case("occlusion(window=64, stride=32)", 37, captum=windows(64, 32)),
    Case("occlusion(window=32, stride=16)", 170, captum=windows(32, 16)),
    Case('feature_ablation(regions="grid(7)")', 50, captum=captum("FeatureAblation", **GRID)),
    Case(
        'feature_permutation(regions="grid(7)", baseline="reference(n=2)")',
        50,
        captum=captum("FeaturePermutation", **GRID),
    ),
    Case(
        'shapley_values(regions="grid(2)")',
        15,
        once=1,
        captum=captum("ShapleyValues", feature_mask="@quarters", **SAMPLED),
    ),
    Case(
        'shapley_value_sampling(n_samples=2, regions="grid(7)")',
        97,
        once=1,
        captum=captum("ShapleyValueSampling", n_samples=2, **GRID),
    ),
    Case(
        'lime(n_samples=100, regions="grid(7)")',
        101,
        captum_images=4,
        captum=captum("Lime", images=4, n_samples=100, **GRID),
    ),
    Case(
        'kernel_shap(n_samples=100, regions="grid(7)")',
        99,
        once=1,
        captum_images=4,
        captum=captum("KernelShap", images=4, n_samples=100, **GRID),
    ),
    Case("saliency", 0, 6, metrics=("sensitivity_max(n_samples=5)",), captum=captum_sensitivity),
    Case("saliency", 10, 1, metrics=("infidelity(n_samples=10)",), captum=captum_infidelity),
]
