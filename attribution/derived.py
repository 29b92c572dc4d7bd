"""What is computed from frozen weights, once for as long as they live."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")


class Derived(Generic[T]):
    """`make(weight, *settings)`, remembered with the weight, which must not be written to in ways that torch doesn't count."""

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __call__(self, weight: Tensor, *settings: Hashable) -> T:
        """Made anew where the weight has been cast, moved or written to since."""
        # A module that is cast or moved keeps its parameters and changes what they hold.
        stamp = (weight.data_ptr(), weight.dtype, weight._version, settings)  # noqa: SLF001  # torch has no public name
        if weight not in self._known or self._known[weight][0] != stamp:
            self._known[weight] = stamp, self._make(weight, *settings)
        found: T = self._known[weight][1]
        return found
