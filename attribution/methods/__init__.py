"""One file a method. Importing this package fills METHODS."""

from attribution.methods import (
    activation,
    conductance,
    grad_cam,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    internal_influence,
    noise_tunnel,
    occlusion,
    saliency,
)

__all__ = [
    "activation",
    "conductance",
    "grad_cam",
    "gradient_shap",
    "input_x_gradient",
    "integrated_gradients",
    "internal_influence",
    "noise_tunnel",
    "occlusion",
    "saliency",
]
