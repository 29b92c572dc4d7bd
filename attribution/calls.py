"""Calls of the torch interface as rules see them: one name for all spellings, and which tensors carry credit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ALIASES = {
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "subtract": "sub",
    "clip": "clamp",
    "absolute": "abs",
    "negative": "neg",
    "concat": "cat",
    "concatenate": "cat",
    "mm": "matmul",
    "bmm": "matmul",
    "mv": "matmul",
    "inner": "matmul",
}
_TORCH, _OURS = str(Path(torch.__file__).parent), str(Path(__file__).parent)
_SCORE = str(Path(__file__).with_name("score.py"))
_NO_TENSORS = frozenset({int, float, bool, str, type(None)})
_PLAIN = _NO_TENSORS | {Tensor}
_NO_WRITES = frozenset({"requires_grad_", "detach_", "retain_grad_"})
_OPENED_MODULES = ("torch.nn.functional", "torch.functional", "torch._tensor")


@cache
def canonical(function: Callable[..., Any]) -> tuple[str, bool]:
    """The operation's one name, and whether this spelling writes into its first argument."""
    spelling = getattr(function, "__name__", "").partition(".")[0]  # torch.ops.aten.silu.default
    if spelling == "__setitem__":
        return spelling, True
    if spelling.startswith("__"):
        stem = spelling.strip("_")
        is_in_place = stem.startswith("i") and hasattr(Tensor, f"{stem[1:]}_")
        name = stem[1:] if is_in_place or (stem.startswith("r") and hasattr(Tensor, f"__{stem[1:]}__")) else stem
        name = "div" if name == "truediv" else name
    else:
        is_in_place = spelling.endswith("_") and spelling not in _NO_WRITES
        name = spelling.rstrip("_")
    name = name.removesuffix("_with_indices")
    return _ALIASES.get(name, name), is_in_place


@cache
def opened(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A copy of one of torch's Python functions whose inner calls a mode sees; None for what computes itself.

    Such a function (`multi_head_attention_forward`, `normalize`, `glu`, `batch_norm`, ...) hands itself to the mode
    whole. The copy finds no mode to hand itself to, and so makes its calls one by one.
    """
    is_composite = (
        isinstance(function, FunctionType)
        and function.__module__ in _OPENED_MODULES
        and any(name.startswith("has_torch_function") for name in function.__code__.co_names)
    )
    if not is_composite:
        return None
    assert isinstance(function, FunctionType)
    names = {name: _nothing_overrides for name in function.__globals__ if name.startswith("has_torch_function")}
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _nothing_overrides(*_: Any) -> bool:
    return False


def out_of_place(name: str) -> Callable[..., Any]:
    """The function that computes what the in-place one writes."""
    function: Callable[..., Any] = getattr(torch, name, None) or getattr(functional, name)
    return function


class Bound:
    """One call as a function of the tensors that carry credit, everything else being constant."""

    def __init__(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name, self.function, self.args, self.kwargs = name, function, args, kwargs
        self.tensors = tensors_in((args, kwargs))
        self.is_credited = tuple(carries_credit(tensor) for tensor in self.tensors)
        self.writes: Callable[..., Any] | None = None
        """The spelling that writes its result into its first argument, where the call had that form."""
        self.could_write: Callable[..., Any] | None = None
        """That spelling where nobody else reads the first argument, so that the call may as well leave it as it is."""
        self.copy: Tensor | None = None
        """Of the first argument, where one was made before the call writes there."""
        self.gives_inputs = False
        """Whether a rule may write over the inputs it gets, which nobody reads again."""

    @property
    def credited(self) -> list[Tensor]:
        """The tensors that carry credit."""
        return [tensor for tensor, is_credited in zip(self.tensors, self.is_credited, strict=True) if is_credited]

    @property
    def constants(self) -> list[Tensor]:
        """The tensors that carry none and are no parameters."""
        pairs = zip(self.tensors, self.is_credited, strict=True)
        return [tensor for tensor, is_credited in pairs if not is_credited and not isinstance(tensor, nn.Parameter)]

    @property
    def is_of_one_tensor(self) -> bool:
        """Whether the first argument is the only tensor."""
        return len(self.tensors) == 1 and bool(self.args) and self.args[0] is self.tensors[0]

    def written(self, tensor: Tensor) -> Any:
        """Write the result into that tensor, as the model's own call does."""
        assert self.writes is not None
        return self.writes(tensor, *self.args[1:], **self.kwargs)

    def become(self, function: Callable[..., Any], first: Tensor) -> None:
        """Call another function, with another first argument."""
        self.function, self.args = function, (first, *self.args[1:])
        self.tensors[0] = first

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its position or its name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def __call__(self, *credited: Tensor) -> Any:
        """Run the function, with these as the tensors that carry credit (or its own)."""
        if self.is_of_one_tensor:
            if self.writes is not None and not credited:
                return self.written(self.args[0])
            return self.function(*(credited or self.args[:1]), *self.args[1:], **self.kwargs)
        if not credited:
            return self.function(*constant(self.args), **constant(self.kwargs))
        new = iter(credited)
        tensors = iter(
            [
                next(new) if is_credited else tensor
                for tensor, is_credited in zip(self.tensors, self.is_credited, strict=True)
            ]
        )
        args, kwargs = _rebuilt((self.args, self.kwargs), tensors)
        return self.function(*args, **kwargs)


def carries_credit(tensor: Tensor) -> bool:
    """Whether gradients to what is credited pass here; parameters may ask for gradients of their own."""
    return tensor.requires_grad and not isinstance(tensor, nn.Parameter)


def model_line(stack: Sequence[str]) -> str:
    """The innermost line of a formatted stack that is the model's own; torch's where the model is made of torch's modules."""
    entry = max((i for i, frame in enumerate(stack) if _SCORE in frame), default=-1)  # where the engine calls the model
    frames = [frame for frame in reversed(stack[entry + 1 :]) if _OURS not in frame]
    frame = next((frame for frame in frames if _TORCH not in frame), frames[0] if frames else "an unknown place")
    location, _, source = frame.strip().partition("\n")
    line = source.strip().partition("\n")[0]
    return f"{location.removeprefix('File ')}: {line}".replace('"', "").rstrip(": ")


def constant(value: Any) -> Any:
    """The same arguments with parameters cut off from the graph: they carry no credit."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return kind([constant(item) for item in value])
    if kind is dict:
        return {key: constant(item) for key, item in value.items()}
    return value.detach() if isinstance(value, nn.Parameter) and value.requires_grad else value


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor among a call's arguments or results, however they are nested."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def each_tensor(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same arguments or results with something else in place of every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        items = [each_tensor(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: each_tensor(item, change) for key, item in value.items()}
    return value


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, tuple | list):
        for item in value:
            if type(item) not in _NO_TENSORS:
                _collect(item, found)
    elif isinstance(value, dict):
        _collect(list(value.values()), found)


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return constant(next(tensors))
    if type(value) in (tuple, list):
        return type(value)(_rebuilt(item, tensors) for item in value)
    if type(value) is dict:
        return {key: _rebuilt(item, tensors) for key, item in value.items()}
    return value
