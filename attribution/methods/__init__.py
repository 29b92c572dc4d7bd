"""One file a method. Importing this package fills METHODS."""

from attribution.methods import (
    grad_cam,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    noise_tunnel,
    occlusion,
    saliency,
)

__all__ = [
    "grad_cam",
    "gradient_shap",
    "input_x_gradient",
    "integrated_gradients",
    "noise_tunnel",
    "occlusion",
    "saliency",
]
