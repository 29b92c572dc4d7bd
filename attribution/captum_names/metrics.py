"""Captum's metrics: how well an explanation predicts what perturbations do, and how much small ones change it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import parts_of
from attribution.captum_names import forms
from attribution.captum_names.asked import explained
from attribution.captum_names.errors import ArgumentError, asserting
from attribution.noise import Draws
from attribution.site import Input


def infidelity(
    forward_func: Callable[..., Any],
    perturb_func: Callable[..., Any],
    inputs: forms.Tensors,
    attributions: forms.Tensors,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """The mean squared difference between what attributions foretell of perturbations and what the score does.  -> (N,)

    `perturb_func(inputs[, baselines])` returns the perturbations I and the perturbed inputs; the foretold change is
    sum(I * attributions). `normalize` scales it by the factor that fits best. Yeh et al. 2019, arXiv:1901.09392, def. 2.1.
    """
    with asserting(), torch.no_grad():
        given, credit = forms.read_inputs(inputs), forms.read_inputs(attributions)
        if [part.shape for part in given.parts] != [part.shape for part in credit.parts]:
            raise ArgumentError("attributions must have the shapes of the inputs, one for each")
        arguments = {"additional_forward_args": additional_forward_args, "target": target, "baselines": baselines}
        score = Input(explained(forward_func, given, target, additional_forward_args)).score(given.x)
        columns = []
        for times in _calls(len(given), n_perturb_samples, max_examples_per_batch):
            own = forms.repeated(arguments, len(given), times)
            change, there = _perturbed(perturb_func, _copies(given, times), own["baselines"])
            asked = Input(explained(forward_func, there, own["target"], own["additional_forward_args"]))
            foretold = forms.row_sums(
                [a * part.repeat_interleave(times, 0) for a, part in zip(change.parts, credit.parts, strict=True)]
            )
            fall = score.repeat_interleave(times) - asked.score(there.x)
            columns.append(torch.stack([foretold.to(fall), fall]).reshape(2, len(given), times))
        foretold, fall = torch.cat(columns, 2)
        if normalize:
            foretold = foretold * _share((foretold * fall).sum(1), (foretold**2).sum(1)).unsqueeze(1)
        error: Tensor = foretold - fall
        return (error**2).mean(1)


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[..., Any]:
    """Let a function that returns only perturbed inputs serve `infidelity`, which finds the perturbations itself.

    They are x - perturbed, or where attributions already hold the distance from the baseline, the share of it.
    """

    def decorated(perturb_func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(perturb_func)
        def with_perturbations(inputs: forms.Tensors, baselines: Any = None) -> tuple[Any, Any]:
            given = forms.read_inputs(inputs)
            there = forms.read_inputs(perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines))
            start = parts_of(forms.read_baseline(baselines, given))
            gone = [x - moved for x, moved in zip(given.parts, there.parts, strict=True)]
            if multiply_by_inputs:
                gone = [_share(part, x - b) for part, x, b in zip(gone, given.parts, start, strict=True)]
            return tuple(gone), there.parts

        return with_perturbations

    return decorated


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part / whole; the part itself where there is no whole."""
    return part / torch.where(whole != 0, whole, torch.ones_like(whole))


def default_perturb_func(inputs: forms.Tensors, perturb_radius: float = 0.02) -> tuple[Tensor, ...]:
    """The inputs with noise of their own for each row, uniform between -perturb_radius and perturb_radius."""
    given = forms.read_inputs(inputs)
    draws = forms.read_draws(None, len(given))
    return tuple(part + _uniform(part, draws, number, perturb_radius) for number, part in enumerate(given.parts))


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: forms.Tensors,
    perturb_func: Callable[..., Any] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: Any = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """The largest relative change of an explanation among perturbations of the inputs.  -> (N,)

    `kwargs` go to `explanation_func`, repeated like the rows where they belong to rows. Yeh et al. 2019, arXiv:1901.09392,
    def. 3.1.
    """
    with asserting(), torch.no_grad():
        given = forms.read_inputs(inputs)
        radius = (perturb_radius,) if len(inspect.signature(perturb_func).parameters) > 1 else ()
        whole = _flat(explanation_func(given.parts, **kwargs))
        length = _norm(whole, norm_ord)
        largest = torch.zeros_like(length)
        for times in _calls(len(given), n_perturb_samples, max_examples_per_batch):
            there = perturb_func(_copies(given, times), *radius)
            moved = _flat(explanation_func(there, **forms.repeated(kwargs, len(given), times)))
            change = _norm(moved - whole.repeat_interleave(times, 0), norm_ord).reshape(-1, times)
            largest = torch.maximum(largest, change.amax(1))
        return _share(largest, length)


def _calls(count: int, samples: int, most_rows: int | None) -> Iterator[int]:
    """How many samples of each row are perturbed at once, call by call."""
    if samples < 1:
        raise ArgumentError(f"n_perturb_samples={samples} is too few")
    step = samples if most_rows is None else min(samples, max(1, most_rows // count))
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _copies(given: forms.Inputs, times: int) -> forms.Tensors:
    copies = tuple(part.repeat_interleave(times, 0) for part in given.parts)
    return copies if len(copies) > 1 else copies[0]


def _perturbed(
    perturb_func: Callable[..., Any], copies: forms.Tensors, baselines: Any
) -> tuple[forms.Inputs, forms.Inputs]:
    """What the caller's function returns: perturbations and perturbed inputs, of equal shapes."""
    if isinstance(baselines, tuple) and len(baselines) == 1:
        (baselines,) = baselines
    change, there = perturb_func(copies) if baselines is None else perturb_func(copies, baselines)
    perturbations, inputs = forms.read_inputs(change), forms.read_inputs(there)
    if [part.shape for part in perturbations.parts] != [part.shape for part in inputs.parts]:
        raise ArgumentError("perturb_func must return perturbations and perturbed inputs of equal shapes")
    return perturbations, inputs


def _uniform(part: Tensor, draws: Draws, number: int, radius: float) -> Tensor:
    rows = [torch.rand(part.shape[1:], generator=draws.generator(key, "uniform", number)) for key in draws.keys]
    return ((2 * torch.stack(rows) - 1) * radius).to(part)


def _flat(explanation: Any) -> Tensor:
    return torch.cat([part.detach().reshape(len(part), -1) for part in forms.read_inputs(explanation).parts], 1)


def _norm(rows: Tensor, order: Any) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, 2 if order == "fro" else order, dim=1)
    return length
