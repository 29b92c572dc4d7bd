"""What nodes of our convolutions tell each other on the way back, so that a gradient is added up and gated where it is made.

A tensor that several of them read gets its gradient in parts. The reader that comes first on the way forward comes last on
the way back: the others hand their parts to it, and nothing to autograd, which would pass over memory once more for each sum.
The one that makes the whole gradient also lets pass what the rectifier before it lets pass, and marks it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Hands:
    """What a node that adds to what it makes has been given."""

    is_over: int | None = None
    """The walk through the graph (torch's number of it) in which its gradient has been made."""
    part: tuple[int, Tensor] | None = None
    """A part of that gradient, with the number of the walk that it is of."""

    def taken(self) -> Tensor | None:
        """The part handed over in this walk, if there is one; from now on none is taken."""
        walk, part = _walk(), self.part
        self.is_over, self.part = walk, None
        return part[1] if part is not None and part[0] == walk else None


def taker_of(t: Tensor | None) -> ReferenceType[Any] | None:
    """The node that has read t first, which has `hands` for others' parts."""
    taker: ReferenceType[Any] | None = getattr(t, "read_first_by", None)
    return None if taker is None or taker() is None else taker


def take_for(t: Tensor, node: Any) -> None:
    """Be the one that has read t first."""
    t.read_first_by = ref(node)  # type: ignore[attr-defined]  # as long as t itself


def handed(gradient: Tensor, node: Any, place: int, taker: ReferenceType[Any] | None) -> Tensor | None:
    """Nothing where the taker will add this gradient of the node's input at `place` to its own; else the gradient itself."""
    first = None if taker is None else taker()
    if first is None or (hands := first.hands) is None:
        return gradient
    walk = _walk()
    is_late = hands.is_over == walk or (hands.part is not None and hands.part[0] == walk)
    # A tensor that was written to between its readers has another node.
    if is_late or first.next_functions[0] != node.next_functions[place] or not _is_walked(first):
        return gradient
    hands.part = walk, gradient
    return None


def gated(gradient: Tensor) -> Tensor:
    """Mark it as let pass already, as long as nobody adds to it, in place or otherwise."""
    gradient.gated_at = gradient._version  # type: ignore[attr-defined]  # noqa: SLF001  # torch has no public name for it
    return gradient


def was_gated(gradient: Tensor) -> bool:
    """Whether this is still what one of our kernels made, and nothing else flows into it; for the one who asks first, whom it is for."""
    is_so = getattr(gradient, "gated_at", None) == gradient._version  # noqa: SLF001  # as above
    gradient.gated_at = None  # type: ignore[attr-defined]  # as above
    return is_so


def _walk() -> int:
    number: int = torch._C._current_graph_task_id()  # noqa: SLF001  # torch.autograd.graph has it from there
    return number


def _is_walked(node: Any) -> bool:
    will_be: bool = torch._C._will_engine_execute_node(node)  # noqa: SLF001  # as above
    return will_be
