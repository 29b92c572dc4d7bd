"""One row of the table of Captum's classes, and the pieces that their signatures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

from attribution.captum_names.formula import Answer


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

    bases: tuple[type[Any] | str, ...]
    """Classes, or the names of other rows."""
    constructor: Signature
    attribute: Signature
    answer: Answer
    multiplies: bool | None = None
    """Whether the inputs are a factor of the result, where the constructor does not ask."""
    checked: Callable[[Any], object] = lambda _owner: None
    """Raises where a new object can't work."""

    @property
    def summary(self) -> str:
        """The first line of the docstring of what answers."""
        answer: Any = getattr(self.answer, "method", self.answer)
        return (getattr(answer, "func", answer).__doc__ or "").strip().splitlines()[0]


ARGUMENTS = {"additional_forward_args": None}
TARGET = {"target": None, **ARGUMENTS}
SAMPLES = {"n_samples": 5, "stdevs": 0.0}
PATH = {"n_steps": 50, "method": "gausslegendre", "internal_batch_size": None}
DELTA = {"return_convergence_delta": False}
TO_LAYER = {"attribute_to_layer_input": False}
TO_NEURON = {"attribute_to_neuron_input": False}
GRAD = {"grad_kwargs": None}
CUSTOM = {"custom_attribution_func": None}
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
MODEL = takes("model")
FORWARD = takes("forward_func")
FORWARD_BY_INPUTS = takes("forward_func", multiply_by_inputs=True)
AT = takes("forward_func", "layer", device_ids=None)
AT_BY_INPUTS = takes("forward_func", "layer", device_ids=None, multiply_by_inputs=True)
