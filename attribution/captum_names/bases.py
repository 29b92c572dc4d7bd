"""What Captum's classes have in common, under Captum's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from attribution.captum_names import forms
from attribution.captum_names.asked import explained
from attribution.captum_names.errors import ArgumentError, asserting
from attribution.site import Input


class Attribution:
    """An attribution method bound to a model, or to any function of tensors."""

    attribute: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:  # Captum's name, for any arguments
        """Nothing here answers later: `cli.py submit` and the jobs package run things elsewhere."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}: call attribute")

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can return by how much completeness fails."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the inputs, or their distance from the baseline, are a factor of the result."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The class's name in words."""
        return "".join(f" {letter}" if letter.isupper() and i else letter for i, letter in enumerate(cls.__name__))


class GradientAttribution(Attribution):
    """A method that needs the model's gradients."""

    def compute_convergence_delta(
        self,
        attributions: forms.Tensors,
        start_point: Any,
        end_point: forms.Tensors,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """The attributions' sum minus score(end_point) - score(start_point), for each row.  -> (N,)"""
        with asserting():
            inputs = forms.read_inputs(end_point)
            parts = forms.read_inputs(attributions).parts
            if any(len(part) != len(inputs) for part in parts):
                raise ArgumentError(f"{len(parts[0])} rows of attributions for an end_point of {len(inputs)} rows")
            ends = Input(explained(self.forward_func, inputs, target, additional_forward_args))
            start = forms.read_baseline(start_point, inputs)
            return forms.row_sums(parts) - (ends.score(inputs.x) - ends.score(start))


class ModifiedReluGradientAttribution(GradientAttribution):
    """A method that changes what rectifiers pass back."""


class PerturbationAttribution(Attribution):
    """A method that needs nothing of the model but its answers."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a feature's attribution is what its value adds to the baseline's."""
        return True


class InternalAttribution(Attribution):
    """A method that looks at a layer of the model."""

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        Attribution.__init__(self, forward_func)
        self.layer, self.device_ids = layer, device_ids


class LayerAttribution(InternalAttribution):
    """A method that credits a layer's activations."""

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """A layer's maps (N, C, *places) enlarged to the size `interpolate_dims`."""
        return nn.functional.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


class NeuronAttribution(InternalAttribution):
    """A method that credits the inputs for one neuron of a layer."""


class AroundAnother(Attribution):
    """A method that asks another attribution object, and has its promises."""

    attribution_method: Attribution

    def has_convergence_delta(self) -> bool:
        """The other's."""
        return self.attribution_method.has_convergence_delta()

    @property
    def multiplies_by_inputs(self) -> bool:
        """The other's."""
        return self.attribution_method.multiplies_by_inputs
