"""Convolutions that wait for what comes behind them: a sum and a rectifier then come in the same pass over memory.

A preparation knows from one pass over an example which operations come (`steps.py`). A residual block's sum is Python's own
addition and its rectifier one module for several, so neither can be put into the convolution beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack as modes

from attribution.calls import canonical
from attribution.convolutions import conv2d, fused_conv2d, is_ours
from attribution.geometry import Ends, Geometry

SUM = "add"
ENDS: dict[str, Callable[..., Ends]] = {
    "relu": lambda inplace=False: (0, inf),  # noqa: ARG005  # torch's signature
    "relu6": lambda inplace=False: (0, 6),  # noqa: ARG005  # as above
    "hardtanh": lambda min_val=-1.0, max_val=1.0, inplace=False: (min_val, max_val),  # noqa: ARG005  # as above
}
"""By name (`calls.canonical`), between which ends they keep their input, from their other arguments."""


class Convolution(nn.Conv2d):
    """A convolution of zero-padded maps with frozen weights, and the rectifier that comes next, if `ends` are given."""

    ends: Ends | None
    awaits: tuple[str, ...]
    """The operations that come next, a sum or a rectifier or both, for which the output waits."""

    @classmethod
    def of(cls, convolution: nn.Conv2d, ends: Ends | None = None, awaits: tuple[str, ...] = ()) -> Convolution:
        """The same convolution, its weights and its name in the model."""
        ours = cls.__new__(cls)
        ours.__dict__.update(convolution.__dict__)
        ours.ends, ours.awaits = ends, awaits
        return ours

    def forward(self, x: Any) -> Any:
        """(n, c, h, w) -> (n, k, h', w'), perhaps deferred"""
        x = settled(x)
        assert not isinstance(self.padding, str)
        geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)
        whole = self.weight, self.bias, *geometry
        if self.awaits and _may_wait(x, self.weight):
            return Deferred(x, self.weight, geometry, partial(fused_conv2d, x, *whole), self.awaits)
        return conv2d(x, *whole) if self.ends is None else fused_conv2d(x, *whole, self.ends, None)


def _may_wait(x: Tensor, weight: Tensor) -> bool:
    """Whether every mode that looks on takes calls that are made later than the model makes them."""
    if not all(getattr(mode, "defers", False) for mode in modes()):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return False
    with torch._C.DisableTorchFunction():  # noqa: SLF001  # what is asked here is no call of the model's
        return is_ours(x, weight)


class Deferred:
    """What a convolution puts out, not computed before it is known what comes behind.

    It is no tensor, so that nobody takes it for one: torch's functions compute it and go on with its value, if they are
    not what it waits for.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        geometry: Geometry,
        compute: Callable[[Ends | None, Tensor | None], Tensor],
        awaits: tuple[str, ...],
    ) -> None:
        with torch._C.DisableTorchFunction():  # noqa: SLF001  # as above
            self._form = (len(x), len(weight), *geometry.sizes(x.shape[2:], weight.shape[2:])), x.dtype, x.device
            self._x, self._version = x, x._version  # noqa: SLF001  # the documented counter has no public name
        self._compute, self._awaits = compute, awaits
        self._added: Tensor | None = None
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor, with the sum as far as it has been met."""
        if self._value is None:
            self._value = self._finished(None)
        return self._value

    def __add__(self, other: Any) -> Any:
        """The sum, if it is what is waited for and of tensors alike, as a part of the convolution."""
        other = settled(other)
        if not self.waits_for(SUM) or not self._is_like(other):
            return self.value + other
        total = copy(self)
        total._added, total._awaits = other, self._awaits[1:]
        return total if total._awaits else total.value

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """A rectifier that is waited for, as a part of the convolution; anything else with the value."""
        name, first, kwargs = canonical(func)[0], args[0] if args else None, kwargs or {}
        if isinstance(first, Deferred) and first.waits_for(name):
            if name in ENDS:
                return first.rectified(ENDS[name](*args[1:], **kwargs))
            if len(args) == 2 and not kwargs:
                return first + args[1]
        return func(*map(settled, args), **{key: settled(value) for key, value in kwargs.items()})

    def __getattr__(self, name: str) -> Any:
        """As of the tensor."""
        if name.startswith("_"):  # Python's own questions, as of `copy`
            raise AttributeError(name)
        return getattr(self.value, name)

    def rectified(self, ends: Ends) -> Tensor:
        """Clamped between the ends, also for whoever goes on with this as written over."""
        self._value = self._finished(ends)
        return self._value

    def waits_for(self, name: str) -> bool:
        """Whether it is this operation that can come with it."""
        return self._value is None and bool(self._awaits) and self._awaits[0] == name

    def _is_like(self, other: Any) -> bool:
        if not isinstance(other, Tensor):
            return False
        with torch._C.DisableTorchFunction():  # noqa: SLF001  # as above
            return (other.shape, other.dtype, other.device) == self._form

    def _finished(self, ends: Ends | None) -> Tensor:
        with torch._C.DisableTorchFunction():  # noqa: SLF001  # as above
            is_written = self._x._version != self._version  # noqa: SLF001  # as above
        if is_written:
            raise RuntimeError("what a convolution reads was written over before it was needed")
        return self._compute(ends, self._added)


def _as_of_the_tensor(name: str) -> Callable[..., Any]:
    def operator(deferred: Deferred, *others: Any) -> Any:
        return getattr(deferred.value, name)(*map(settled, others))

    return operator


for _stem in ("add", "sub", "mul", "truediv", "pow", "matmul"):
    for _name in (f"__{_stem}__", f"__r{_stem}__"):
        if _name not in vars(Deferred):
            setattr(Deferred, _name, _as_of_the_tensor(_name))
for _name in ("__neg__", "__len__", "__getitem__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Deferred, _name, _as_of_the_tensor(_name))


def settled(value: Any) -> Any:
    """The tensor that was deferred, in a list of them too; anything else as it is."""
    if isinstance(value, Deferred):
        return value.value
    if isinstance(value, tuple | list):
        return type(value)(map(settled, value))
    return value
