"""What rules will need of a pass when gradients flow, held through everything that the model writes over it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(slots=True, eq=False)
class Kept:
    """A tensor that a rule will need, replaced by a copy before the model writes into it."""

    tensor: Tensor


class KeptTensors:
    """What is kept of a pass under way, by the storage that it lies in."""

    def __init__(self) -> None:
        self._by_storage: dict[int, list[Kept]] = {}

    def keep(self, tensor: Tensor) -> Kept:
        """The tensor's present values, for when gradients flow."""
        kept = Kept(tensor.detach())
        self._by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(kept)
        return kept

    def holds(self, tensor: Tensor) -> bool:
        """Whether this tensor's values are kept already."""
        return tensor.untyped_storage().data_ptr() in self._by_storage

    def protect(self, written: Tensor) -> Tensor | None:
        """Give rules a copy of what they keep of a tensor that is about to be overwritten; the copy of all of it, if there is one."""
        copies: dict[Any, Tensor] = {}
        for kept in self._by_storage.pop(written.untyped_storage().data_ptr(), ()):
            place = _geometry(kept.tensor)
            if place not in copies:
                copies[place] = kept.tensor.clone()
            kept.tensor = copies[place]
        return copies.get(_geometry(written))

    def clear(self) -> None:
        """Nothing that is written from now on concerns the pass."""
        self._by_storage.clear()


def _geometry(t: Tensor) -> Any:
    """Where in its storage a tensor lies."""
    return t.storage_offset(), t.shape, t.stride(), t.dtype
