"""Reading and replacing the tensors that pass a place in the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import torch

from attribution.errors import LayerError
from attribution.hooks import Parts, Place, Reached, visiting


class Tap:
    """While open, keeps the tensors that pass `place` and can put others in their stead.

    `grad=True` makes them something the score can be differentiated by: they become leaves where no graph exists yet.
    `replacement` puts those tensors in their place. `ends=True` ends the forward pass there. `on_reach` is called first.
    """

    def __init__(
        self,
        place: Place,
        *,
        grad: bool = False,
        ends: bool = False,
        replacement: Parts | None = None,
        on_reach: Callable[[], None] | None = None,
    ) -> None:
        self.place, self.grad, self.replacement, self.on_reach = place, grad, replacement, on_reach
        # Only the first call can be known to be the one that is meant before the pass is over.
        self.ends = ends and place.call is not None and place.call >= 0
        self.calls = 0
        self._parts: Parts | None = None
        self._hook: AbstractContextManager[None] = visiting(place, self._visit)

    def __enter__(self) -> Self:
        self._hook.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.__exit__(None, None, None)

    @property
    def parts(self) -> Parts:
        """The tensors of the call that is meant, as they were when they passed."""
        if self._parts is None:
            name = type(self.place.module).__name__
            reason = f"is called {self.calls} times" if self.calls else "is not reached by the forward pass"
            raise LayerError(f"the layer ({name}) {reason}: name a layer that is")
        return self._parts

    def run(self, forward: Callable[[], Any]) -> Any:
        """Run a forward pass; None where it ended at the place."""
        try:
            return forward()
        except Reached:
            return None

    def _visit(self, parts: Parts) -> Parts | None:
        call, self.calls = self.calls, self.calls + 1
        wanted = self.place.call
        if wanted is None and call > 0:
            name = type(self.place.module).__name__
            raise LayerError(
                f"the layer ({name}) is called several times in one forward pass: name one that is called once"
            )
        if wanted is not None and wanted >= 0 and call != wanted:
            return None
        if self.on_reach is not None:
            self.on_reach()
        if self.replacement is not None:
            self._parts = self.replacement
            return tuple(new.to(old.dtype, copy=True) for new, old in zip(self.replacement, parts, strict=True))
        if not self.grad:
            self._parts = tuple(part.clone() for part in parts) if not self.ends else parts
            if self.ends:
                raise Reached
            return None
        self._parts = tuple(
            part if part.requires_grad else part.detach().requires_grad_(part.is_floating_point()) for part in parts
        )
        # What follows gets copies: an in-place ReLU behind the layer must not overwrite what is credited.
        return tuple(part.clone() for part in self._parts)


def accumulated(part: torch.Tensor) -> torch.Tensor:
    """At least float32, so that sums over steps and samples keep their digits."""
    return part if part.dtype in (torch.float32, torch.float64) else part.float()
