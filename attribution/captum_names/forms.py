"""Captum's forms of arguments, read once: whatever a caller writes becomes one form, with every row spelled out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.captum_names.errors import ArgumentError
from attribution.hooks import Parts
from attribution.noise import Draws
from attribution.score import Pick

Tensors: TypeAlias = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The inputs as the engine takes them, and how they were given."""

    parts: Parts
    is_tuple: bool

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def half(self) -> torch.dtype | None:
        """The half precision that all of them share: the engine accumulates in float32 and the answer goes back to it."""
        kinds = {part.dtype for part in self.parts}
        (kind, *others) = kinds
        return kind if not others and kind in (torch.float16, torch.bfloat16) else None

    @property
    def x(self) -> Features:
        """The inputs as one vector, cut off from the caller's graph."""
        parts = [part.clone() if part.is_inference() else part.detach() for part in self.parts]
        return bundled([part.float() if self.half else part for part in parts])

    def as_given(self, features: Features) -> Tensors:
        """A result for each input, packed as the inputs were."""
        parts = tuple(part.to(self.half) if self.half else part for part in parts_of(features))
        return parts if self.is_tuple else parts[0]


def read_inputs(inputs: Any) -> Inputs:
    """A tensor, or a tuple of tensors that share their rows."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    if not parts or not all(isinstance(part, Tensor) and part.dim() > 0 for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ArgumentError(f"inputs are {kinds or 'empty'}; give a tensor (rows, ...) or a tuple of such tensors")
    return Inputs(parts, isinstance(inputs, tuple))


def read_baseline(baselines: Any, inputs: Inputs) -> Features:
    """None, a number, a tensor like the input or of one row, or a tuple of these.  -> (N, ...), without memory for repeats"""
    parts = []
    for given, part in zip(_one_each(baselines, inputs), inputs.parts, strict=True):
        rows = _as_rows(given, part)
        if rows.shape[1:] != part.shape[1:] or len(rows) not in (1, len(part)):
            raise ArgumentError(
                f"a baseline of shape {tuple(rows.shape)} does not fit an input of shape {tuple(part.shape)}: "
                "give a number, one row, or a row for each row of the input"
            )
        parts.append(rows.expand_as(part))
    return bundled([part.float() if inputs.half else part for part in parts])


def read_distribution(baselines: Any, inputs: Inputs) -> Parts:
    """A tensor of reference rows for each input, or a function that returns them.  -> each (K, ...)"""
    if callable(baselines):
        takes = len(inspect.signature(baselines).parameters)
        baselines = baselines(*((inputs.parts if inputs.is_tuple else inputs.parts[0],) if takes else ()))
    rows = tuple(_as_rows(given, part) for given, part in zip(_one_each(baselines, inputs), inputs.parts, strict=True))
    for row, part in zip(rows, inputs.parts, strict=True):
        if row.shape[1:] != part.shape[1:]:
            raise ArgumentError(
                f"baselines of shape {tuple(row.shape)} do not fit an input of shape {tuple(part.shape)}: only the number of rows may differ"
            )
    return rows


def _one_each(values: Any, inputs: Inputs) -> tuple[Any, ...]:
    each = values if isinstance(values, tuple) else (values,) * (len(inputs.parts) if values is None else 1)
    if len(each) != len(inputs.parts):
        raise ArgumentError(f"{len(each)} baseline(s) for {len(inputs.parts)} input(s): give one for each")
    return each


def _as_rows(given: Any, part: Tensor) -> Tensor:
    """A baseline as a tensor with rows, in the input's dtype and place."""
    if given is None or isinstance(given, int | float | np.number):
        whole = isinstance(given, bool | int | None) or part.is_floating_point()
        dtype = part.dtype if whole else torch.get_default_dtype()
        return torch.full((1, *part.shape[1:]), float(given or 0), dtype=dtype, device=part.device)
    if not isinstance(given, Tensor):
        raise ArgumentError(f"a baseline is a tensor or a number, not {type(given).__name__}")
    return given.detach()


def read_target(target: Any, count: int, device: torch.device) -> Tensor | None:
    """An index, a tuple of indices, or a list or tensor of either with one for each row.  -> (N,) or (N, k)"""
    if target is None:
        return None
    if isinstance(target, Tensor | np.ndarray):
        target = torch.as_tensor(target)
        target = target.item() if target.numel() == 1 else target.tolist()
    if isinstance(target, list):
        if len(target) != count:
            raise ArgumentError(f"{len(target)} targets for {count} rows: give one for each, or one for all")
        return torch.stack([_index(one) for one in target]).to(device)
    index = _index(target)
    return index.expand(count, *index.shape).to(device)


def _index(target: Any) -> Tensor:
    """One row's target: an integer of any kind -> (), or a tuple of them -> (k,)."""
    numbers = target if isinstance(target, tuple | list) else (target,)
    try:
        index = torch.tensor([number.__index__() for number in numbers], dtype=torch.long)
    except (AttributeError, TypeError) as error:
        raise ArgumentError(f"target {target!r} is not an index; use an integer, or a tuple of them") from error
    return index if isinstance(target, tuple | list) else index[0]


def read_arguments(arguments: Any) -> tuple[Any, ...]:
    """What the model is called with after the inputs."""
    return () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)


def read_selector(selector: Any) -> Pick:
    """An index, a tuple of indices and slices (their neurons are summed), or a function of the layer's value."""

    def pick(parts: Parts) -> Tensor:
        if callable(selector):
            return _one_per_row(selector(parts if len(parts) > 1 else parts[0]), parts[0])
        if len(parts) != 1:
            raise ArgumentError(f"the layer has {len(parts)} tensors: select the neuron with a function of them")
        index = selector if isinstance(selector, tuple) else (selector,)
        if len(index) != parts[0].dim() - 1:
            raise ArgumentError(
                f"neuron {selector!r} has {len(index)} indices, the layer's rows have the shape {tuple(parts[0].shape[1:])}"
            )
        chosen = parts[0][(slice(None), *index)]
        return chosen.flatten(1).sum(1) if chosen.dim() > 1 else chosen

    return pick


def _one_per_row(chosen: Any, part: Tensor) -> Tensor:
    """A number for each row; a single number for all rows is shared out."""
    if not isinstance(chosen, Tensor) or chosen.numel() not in (1, len(part)):
        form = tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
        raise ArgumentError(
            f"the neuron selector returns {form}; it must return one number for each of {len(part)} rows"
        )
    return chosen.reshape(-1).expand(len(part)) / (len(part) if chosen.numel() < len(part) else 1)


def read_stdevs(stdevs: Any, inputs: Inputs) -> tuple[float, ...]:
    """A number for all inputs, or a tuple with one for each."""
    each = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(inputs.parts)
    if len(each) != len(inputs.parts) or not all(isinstance(one, int | float | np.number) for one in each):
        raise ArgumentError(
            f"stdevs={stdevs!r} for {len(inputs.parts)} input(s): give one number, or a tuple with one for each"
        )
    return tuple(float(one) for one in each)


def read_draws(seed: int | None, count: int) -> Draws:
    """Random numbers for each row, independent of how many rows there are.

    Without a seed each row takes one number from torch's global generator, in the order of the rows, so that
    torch.manual_seed rules: the only global state that anything in the engine changes.
    """
    if seed is None:
        return Draws(0, tuple(map(str, torch.randint(2**62, (count,)).tolist())))
    return Draws(seed, tuple(map(str, range(count))))


def each(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to the tensors of results of the same form: tensor, tuple, or list of either."""
    if isinstance(values[0], Tensor):
        return function(*values)
    if isinstance(values[0], tuple | list):
        return type(values[0])(each(function, *items) for items in zip(*values, strict=True))
    raise ArgumentError(f"the method returns a {type(values[0]).__name__}, not tensors")


BY_ROW = ("inputs", "target", "baselines", "additional_forward_args", "feature_mask")
"""The arguments of Captum's methods that may hold something for each row."""


def repeated(arguments: Mapping[str, Any], count: int, times: int) -> dict[str, Any]:
    """The arguments for inputs of which each of `count` rows stands `times` times in a row."""
    return _by_row(
        arguments,
        count,
        lambda part: part.repeat_interleave(times, 0),
        lambda rows: [r for r in rows for _ in range(times)],
    )


def stacked(arguments: Mapping[str, Any], count: int, times: int) -> dict[str, Any]:
    """The arguments for `times` copies of inputs of `count` rows, one below the other."""
    return _by_row(arguments, count, lambda part: torch.cat([part] * times), lambda rows: rows * times)


def row_of(arguments: Mapping[str, Any], count: int, row: int) -> dict[str, Any]:
    """The arguments of one of `count` rows."""
    return _by_row(arguments, count, lambda part: part[row : row + 1], lambda rows: rows[row : row + 1])


def _by_row(
    arguments: Mapping[str, Any],
    count: int,
    of_tensor: Callable[[Tensor], Tensor],
    of_list: Callable[[list[Any]], list[Any]],
) -> dict[str, Any]:
    """Change what belongs to rows: tensors that have one each, and a list of targets."""

    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return of_tensor(value) if value.dim() > 0 and len(value) == count else value
        return tuple(map(changed, value)) if isinstance(value, tuple) else value

    own = {name: changed(value) for name, value in arguments.items() if name in BY_ROW}
    if isinstance(arguments.get("target"), list):
        own["target"] = of_list(arguments["target"])
    return {**arguments, **own}


def row_sums(parts: Sequence[Tensor]) -> Tensor:
    """The sum over all features of all parts.  -> (N,)"""
    return torch.stack([part.reshape(len(part), -1).sum(1) for part in parts]).sum(0)
