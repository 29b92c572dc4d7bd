"""A feature map that differs from a known one inside a box only, and a call that is made of it (`patch_rules`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """Rows and columns of a map, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """In pixels."""
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)

    def around(self, other: Box) -> Box:
        """The smallest box that holds both."""
        lows, highs = (min(self.top, other.top), min(self.left, other.left)), (self.bottom, other.bottom)
        return Box(lows[0], max(highs), lows[1], max(self.right, other.right))

    def shared_with(self, other: Box) -> Box:
        """What lies in both."""
        return Box(
            max(self.top, other.top),
            min(self.bottom, other.bottom),
            max(self.left, other.left),
            min(self.right, other.right),
        )

    def of(self, map_: Tensor, corner: tuple[int, int] = (0, 0)) -> Tensor:
        """That part of a map whose first pixel is at `corner`.  (n, c, h, w) -> view"""
        top, left = corner
        return map_[..., self.top - top : self.bottom - top, self.left - left : self.right - left]


@dataclass(slots=True, eq=False)
class Patch:
    """A map that differs from `around` in a box."""

    inside: Tensor
    """(n, c, *box)"""
    box: Box
    around: Tensor
    """(n, c, H, W), of which the box is not read."""

    @property
    def extent(self) -> Box:
        """All of the map."""
        return Box(0, self.around.shape[-2], 0, self.around.shape[-1])

    @property
    def share(self) -> float:
        """The box's, of the map's area."""
        return self.box.area / self.extent.area

    def whole(self) -> Tensor:
        """The map.  (n, c, H, W)"""
        whole = self.around.clone()
        self.box.of(whole).copy_(self.inside)
        return whole

    def within(self, box: Box, beyond: float = 0.0) -> Tensor:
        """What the map shows in another box, and `beyond` where that reaches over its edges.  -> (n, c, *box)"""
        if box == self.box:
            return self.inside
        rows, channels = self.around.shape[:2]
        corner, there = (box.top, box.left), box.shared_with(self.extent)
        shape = (rows, channels, box.bottom - box.top, box.right - box.left)
        shown = torch.empty(shape, dtype=self.inside.dtype, memory_format=torch.channels_last)
        if there != box:
            shown.fill_(beyond)
        there.of(shown, corner).copy_(there.of(self.around))
        mine = box.shared_with(self.box)
        if mine.area:
            mine.of(shown, corner).copy_(mine.of(self.inside, (self.box.top, self.box.left)))
        return shown


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the torch interface with a patch in place of each map that differs in a box."""

    name: str
    """The operation's one name (`attribution.calls.canonical`)."""
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its position or its name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def map_(self) -> Patch | None:
        """The first argument, if it is the only map that differs."""
        others = (*self.args[1:], *self.kwargs.values())
        first = self.args[0] if self.args else None
        return first if isinstance(first, Patch) and not any(isinstance(other, Patch) for other in others) else None
