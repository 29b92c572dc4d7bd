"""LIME in Captum's forms: the engine's for the defaults, and one example at a time where a caller brings own parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from attribution.bundle import bundled, parts_of
from attribution.captum_names import forms
from attribution.captum_names.answers import Asking
from attribution.captum_names.asked import Asked
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.formula import Arguments
from attribution.captum_names.perturbed import Perturbation, asking_of, given_mask
from attribution.captum_names.progress import progress
from attribution.coalitions import composed, credited
from attribution.method import Method
from attribution.methods.lime import DISTANCES, Lime
from attribution.surrogates import Surrogate


@dataclass(frozen=True)
class ExponentialKernel:
    """How much a sample counts: exp(-distance^2 / (2 kernel_width^2)) between the inputs and the perturbed inputs."""

    distance: str = "cosine"
    kernel_width: float = 1.0

    def __call__(self, original_inp: Any, perturbed_inp: Any, _interpretable: Any = None, **_kwargs: Any) -> float:
        x, near = (
            torch.cat([part.flatten().double() for part in _parts(given)]) for given in (original_inp, perturbed_inp)
        )
        kernel = Lime(distance=self.distance, kernel_width=self.kernel_width)
        return float(kernel.similarity(x @ x, x @ near, near @ near))


def get_exp_kernel_similarity_function(distance_mode: str = "cosine", kernel_width: float = 1.0) -> ExponentialKernel:
    """A similarity function for Lime and LimeBase; distance_mode is cosine or euclidean."""
    if distance_mode not in DISTANCES:
        raise ArgumentError(f"distance_mode {distance_mode!r} not found; use {' or '.join(DISTANCES)}")
    return ExponentialKernel(distance_mode, kernel_width)


class Lasso:
    """Captum's protocol of interpretable models, `fit` and `representation`, around the engine's lasso."""

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = alpha
        self._coefficients = torch.zeros(1, 0)

    def fit(self, train_data: Iterable[Sequence[Tensor]]) -> None:
        """Fit batches of samples: features (n, M), output (n,), weight (n,)."""
        kept, output, weight = (torch.cat(column) for column in zip(*train_data, strict=True))
        surrogate = Surrogate(torch.tensor([kept.shape[1]]))
        for row, score, own in zip(kept, output, weight, strict=True):
            surrogate.add(row.unsqueeze(0), score.reshape(1), own.reshape(1))
        self._coefficients = surrogate.lasso(self.alpha)

    def representation(self) -> Tensor:
        """The coefficients.  -> (1, M)"""
        return self._coefficients


@dataclass(frozen=True, kw_only=True)
class Surrogates:
    """Ask a Method that fits a linear model of regions; `return_input_shape=False` asks for its coefficients."""

    method: Callable[..., Method]

    def __call__(self, owner: Any, given: Arguments) -> Any:
        ask = Perturbation(method=self.method, one_output=True)
        maps = ask(owner, given)
        return maps if given["return_input_shape"] else _coefficients(maps, given)


def _coefficients(maps: forms.Tensors, given: Arguments) -> Tensor:
    """Each region's credit, read off one of its features; zero for numbers that no feature has.  -> (N, M)"""
    inputs, credit = forms.read_inputs(given["inputs"]), forms.read_inputs(maps).parts
    numbers, count = _numbered(given["feature_mask"], inputs)
    coefficients = credit[0].new_zeros(len(credit[0]), count)
    for part, own in zip(credit, numbers, strict=True):
        coefficients.scatter_(1, own.expand_as(part).flatten(1), part.flatten(1))
    return coefficients


def _numbered(feature_mask: Any, inputs: forms.Inputs) -> tuple[list[Tensor], int]:
    """The regions' numbers as given, from 0, and how many there are, gaps included."""
    masks = given_mask(feature_mask, inputs)
    least = min(int(mask.min()) for mask in masks)
    return [mask - least for mask in masks], max(int(mask.max()) for mask in masks) - least + 1


def lime(owner: Any, given: Arguments) -> Any:
    """The coefficients of a linear model with few regions that imitates the score where random halves are replaced."""
    kernel = owner.similarity_func or ExponentialKernel()
    if owner.interpretable_model is None and owner.perturb_func is None and isinstance(kernel, ExponentialKernel):
        method = partial(Lime, distance=kernel.distance, kernel_width=kernel.kernel_width)
        return Surrogates(method=method)(owner, given)
    return _row_by_row(owner, given, kernel)


def _row_by_row(owner: Any, given: Arguments, kernel: Callable[..., Any]) -> Any:
    """With a caller's model, similarity or samples: each row on its own, or all rows where they are answered together."""
    asked = Asked(owner, given)
    inputs, asking = asked.inputs, asking_of(asked, None)
    if asking.columns != 1:
        raise ArgumentError(f"the forward function must return one number for each row, not {asking.columns}")
    numbers, count = _numbered(given["feature_mask"], inputs)
    own = {**given, "feature_mask": tuple(numbers), "baselines": parts_of(asked.baseline)}
    rows = [forms.row_of(own, len(inputs), i) for i in range(len(inputs))] if asking.is_by_row else [own]
    draws = forms.read_draws(given["seed"], len(rows))
    coefficients = []
    for row, key in zip(rows, draws.keys, strict=True):
        parts = Parts(
            interpretable_model=Lasso() if owner.interpretable_model is None else owner.interpretable_model,
            similarity_func=kernel,
            perturb_func=owner.perturb_func or partial(_halves, draws.generator(key, "table", 0)),
        )
        extras = {name: row[name] if inputs.is_tuple else row[name][0] for name in ("baselines", "feature_mask")}
        extras["num_interp_features"] = count
        coefficients.append(fitted(parts, owner, row, extras).reshape(1, -1))
    values = torch.cat(coefficients)
    if not given["return_input_shape"]:
        return values
    columns = [credited(values, bundled([own.expand(len(values), *own.shape[1:]) for own in numbers]), asked.x)]
    return asked.packed(asking.laid_out(columns, keeps_outputs=False))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a LimeBase object holds, for Lime: samples say which regions are kept."""

    interpretable_model: Any
    similarity_func: Callable[..., Any]
    perturb_func: Callable[..., Any]
    perturb_interpretable_space: bool = True

    @staticmethod
    def from_interp_rep_transform(kept: Tensor, inputs: Any, **extras: Any) -> Any:
        """The inputs with the other regions replaced by their baselines."""
        start, numbers, x = (bundled(_parts(given)) for given in (extras["baselines"], extras["feature_mask"], inputs))
        near = parts_of(composed(kept.reshape(1, -1).bool(), numbers, x, start))
        return near if isinstance(inputs, tuple) else near[0]


def _halves(generator: torch.Generator, _inputs: Any, **extras: Any) -> Tensor:
    """Each region kept or not with even chances.  -> (1, M)"""
    return (torch.rand(1, extras["num_interp_features"], generator=generator) < 0.5).long()


def lime_base(owner: Any, given: Arguments) -> Any:
    """What a caller's interpretable model learns of the forward function from a caller's samples around the inputs."""
    return fitted(owner, owner, given, dict(given.get("kwargs", {})))


def check_transforms(owner: Any) -> None:
    """Samples come from one of the two spaces and must be brought into the other."""
    into = "from_interp_rep_transform" if owner.perturb_interpretable_space else "to_interp_rep_transform"
    if getattr(owner, into) is None:
        raise ArgumentError(f"{into}=None: give the function that brings samples into the other space")


def fitted(parts: Any, owner: Any, given: Arguments, extras: Mapping[str, Any]) -> Tensor:
    """Sample, ask, weigh, fit; the interpretable model's coefficients. `parts` has the attributes of a LimeBase object."""
    inputs, per_call = given["inputs"], given["perturbations_per_eval"]
    kept, outputs, weights, batch = [], [], [], []
    with torch.no_grad(), progress(owner, given["n_samples"], is_shown=given["show_progress"]) as tick:
        for interpretable, near in islice(_samples(parts, inputs, extras), given["n_samples"]):
            kept.append(interpretable)
            weights.append(torch.as_tensor(parts.similarity_func(inputs, near, interpretable, **extras)).flatten())
            batch.append(near)
            if len(batch) == per_call:
                outputs.append(_asked_together(owner.forward_func, batch, given))
                batch = []
            tick()
        if batch:
            outputs.append(_asked_together(owner.forward_func, batch, given))
    columns = [torch.cat(column).to(_parts(inputs)[0].device).float() for column in (kept, outputs, weights)]
    parts.interpretable_model.fit(DataLoader(TensorDataset(*columns), batch_size=len(kept)))
    coefficients: Tensor = parts.interpretable_model.representation()
    return coefficients


def _samples(parts: Any, inputs: Any, extras: Mapping[str, Any]) -> Iterator[tuple[Tensor, Any]]:
    """Samples in both spaces: as the interpretable model sees them, and as the forward function does."""
    perturb = parts.perturb_func
    drawn = perturb(inputs, **extras) if inspect.isgeneratorfunction(perturb) else None
    for sample in drawn if drawn is not None else iter(lambda: perturb(inputs, **extras), None):
        if parts.perturb_interpretable_space:
            yield sample, parts.from_interp_rep_transform(sample, inputs, **extras)
        else:
            yield parts.to_interp_rep_transform(sample, inputs, **extras), sample


def _asked_together(forward: Callable[..., Any], batch: list[Any], given: Arguments) -> Tensor:
    """One number for each perturbed input of a batch.  -> (n,)"""
    together = tuple(torch.cat(column) for column in zip(*map(_parts, batch), strict=True))
    inputs = forms.Inputs(together, is_tuple=True)
    own = forms.stacked(given, len(_parts(given["inputs"])[0]), len(batch))
    target = forms.read_target(own.get("target"), len(inputs), together[0].device)
    asking = Asking(forward, inputs, target, forms.read_arguments(own.get("additional_forward_args")))
    if asking.example.numel() != len(batch):
        raise ArgumentError(
            f"the forward function returns {asking.example.numel()} numbers for {len(batch)} perturbed inputs"
        )
    return asking.example.flatten()


def _parts(given: Any) -> tuple[Tensor, ...]:
    return given if isinstance(given, tuple) else (given,)
