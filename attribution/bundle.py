"""Several tensors as one vector, so that formulas stay the same for models that take a tuple of inputs."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor


class Bundle:
    """Tensors that share their rows (N, ...) and are added, scaled and passed through torch functions part by part."""

    __slots__ = ("parts",)
    __hash__: ClassVar[None]  # type: ignore[assignment]  # compared by part, like tensors

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = tuple(parts)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _by_part(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """Tensor methods and properties act on every part: `bundle.abs()`, `bundle.detach()`, `bundle.shape`."""
        found = [getattr(part, name) for part in self.parts]
        if callable(found[0]):
            return lambda *args, **kwargs: _by_part(getattr(torch.Tensor, name), (self, *args), kwargs)
        return found

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Any) -> "Bundle":
        return Bundle([part[index] for part in self.parts])

    def __repr__(self) -> str:
        return f"Bundle({', '.join(str(tuple(part.shape)) for part in self.parts)})"


def _by_part(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bundles = [value for value in (*args, *kwargs.values()) if isinstance(value, Bundle)]
    results = [
        func(*(_part(value, i) for value in args), **{key: _part(value, i) for key, value in kwargs.items()})
        for i in range(len(bundles[0].parts))
    ]
    return Bundle(results) if isinstance(results[0], Tensor) else results


def _part(value: Any, i: int) -> Any:
    return value.parts[i] if isinstance(value, Bundle) else value


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: Bundle, *others: Any) -> Any:
        return _by_part(getattr(torch.Tensor, name), (self, *others), {})

    return apply


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg", "lt", "le", "gt", "ge"):
    setattr(Bundle, f"__{_name}__", _operator(f"__{_name}__"))

Features: TypeAlias = Tensor
"""What a formula calculates with: one tensor (N, ...), or a Bundle of several that share their rows.

A Bundle is used exactly like a Tensor in formulas, so formulas are typed for Tensor; `bundled` is where the two meet.
"""


def parts_of(features: Features) -> tuple[Tensor, ...]:
    """The tensors of a Tensor or a Bundle."""
    return features.parts if isinstance(features, Bundle) else (features,)  # type: ignore[unreachable]  # see Features


def bundled(parts: Sequence[Tensor]) -> Features:
    """One tensor as itself, several as a Bundle."""
    return parts[0] if len(parts) == 1 else cast("Tensor", Bundle(parts))


def row_sum(features: Features) -> Tensor:
    """The sum over everything but the rows.  (N, *features) -> (N,)"""
    sums = [part.flatten(1).sum(1) if part.dim() > 1 else part for part in parts_of(features)]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def per_row(values: Tensor, features: Tensor) -> Tensor:
    """Shape one number per row so that it broadcasts over that row's features.  (N,) -> (N, 1, ..., 1)"""
    return values.reshape(-1, *([1] * (features.dim() - 1)))


def between(start: Features, end: Features, alpha: Tensor) -> Features:
    """The point of each row's straight path from start (alpha 0) to end (1).  alpha (N,) -> (N, *features)"""
    points = [
        torch.lerp(first.to(last).expand_as(last), last, per_row(alpha.to(last), last))
        for first, last in zip(parts_of(start), parts_of(end), strict=True)
    ]
    return bundled(points)


def expanded(features: Features, like: Features) -> Features:
    """A single row repeated, without memory, for every row of `like`."""
    return bundled([part.expand_as(other) for part, other in zip(parts_of(features), parts_of(like), strict=True)])


def cut(x: Features, rows: Any) -> Features:
    """Those rows; a part of one row stands for all of them."""
    return bundled([part if len(part) == 1 else part[rows] for part in parts_of(x)])


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers of the host on a device; the host does not wait for what the device has to do first."""
    if device.type != "cuda" or numbers.device == device:
        return numbers.to(device)
    return numbers.contiguous().pin_memory().to(device, non_blocking=True)
