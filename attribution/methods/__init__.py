"""One file a method. Importing this package fills METHODS."""

from attribution.methods import (
    activation,
    conductance,
    feature_ablation,
    feature_permutation,
    grad_cam,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    internal_influence,
    kernel_shap,
    lime,
    noise_tunnel,
    occlusion,
    saliency,
    shapley_value_sampling,
    shapley_values,
)

__all__ = [
    "activation",
    "conductance",
    "feature_ablation",
    "feature_permutation",
    "grad_cam",
    "gradient_shap",
    "input_x_gradient",
    "integrated_gradients",
    "internal_influence",
    "kernel_shap",
    "lime",
    "noise_tunnel",
    "occlusion",
    "saliency",
    "shapley_value_sampling",
    "shapley_values",
]
