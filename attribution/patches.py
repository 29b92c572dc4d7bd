"""A feature map that differs from a known one inside a box only, and what layers with a finite field of view make of it.

Nakandala, Kumar and Papakonstantinou 2019, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations", SIGMOD, sec. 4: a convolution changes its output only where its kernel reaches into the box, and needs for
that the box and a margin as wide as the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


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


Changed = tuple[Tensor, Box]
"""What an operation gives inside a box; outside of it the result is as it was."""


def changed(call: Call) -> Changed | None:
    """What a call gives of patches; None where it has to see whole maps."""
    rule = RULES.get(call.name)
    return None if rule is None else rule(call)


def _by_pixel(call: Call) -> Changed | None:
    patch = call.map_
    if patch is None or (call.name == "batch_norm" and call.argument(5, "training", default=False)):
        return None
    return call.function(patch.inside, *call.args[1:], **call.kwargs), patch.box


def _together(call: Call) -> Changed | None:
    """Sums and products of maps, or of a map and numbers or the model's own weights of its channels."""
    operands, box = call.args[:2], _box_of(call.args[:2])
    if len(operands) < 2 or box is None or not all(map(_is_alike_everywhere, operands)):
        return None
    given = [each.within(box) if isinstance(each, Patch) else each for each in operands]
    return call.function(*given, *call.args[2:], **call.kwargs), box


def _side_by_side(call: Call) -> Changed | None:
    """Maps joined along their channels."""
    maps, dim = call.args[0], call.argument(1, "dim", 0)
    box = _box_of(maps)
    if dim not in (1, -3) or box is None or not all(isinstance(each, Patch) for each in maps):
        return None
    return torch.cat([each.within(box) for each in maps], 1), box


def _convolution(call: Call) -> Changed | None:
    patch, weight, padding = call.map_, call.argument(1, "weight"), call.argument(4, "padding", 0)
    if patch is None or isinstance(padding, str):
        return None
    bias, groups = call.argument(2, "bias"), call.argument(6, "groups", 1)
    strides, dilations = _pair(call.argument(3, "stride", 1)), _pair(call.argument(5, "dilation", 1))
    if (seen := _seen(patch, tuple(weight.shape[-2:]), strides, _pair(padding), dilations)) is None:
        return None
    return functional.conv2d(patch.within(seen.field), weight, bias, strides, 0, dilations, groups), seen.box


def _max_pooling(call: Call) -> Changed | None:
    patch, size = call.map_, call.argument(1, "kernel_size")
    if patch is None or call.argument(5, "ceil_mode", default=False):
        return None
    sizes, strides = _pair(size), _pair(call.argument(2, "stride") or size)
    dilations = _pair(call.argument(4, "dilation", 1))
    if (seen := _seen(patch, sizes, strides, _pair(call.argument(3, "padding", 0)), dilations)) is None:
        return None
    return functional.max_pool2d(patch.within(seen.field, -torch.inf), sizes, strides, 0, dilations), seen.box


def _mean_pooling(call: Call) -> Changed | None:
    patch, size = call.map_, call.argument(1, "kernel_size")
    is_plain = not call.argument(4, "ceil_mode", default=False) and _pair(call.argument(3, "padding", 0)) == (0, 0)
    if patch is None or not is_plain or call.argument(6, "divisor_override") is not None:
        return None
    sizes, strides = _pair(size), _pair(call.argument(2, "stride") or size)
    if (seen := _seen(patch, sizes, strides, (0, 0), (1, 1))) is None:
        return None
    return functional.avg_pool2d(patch.within(seen.field), sizes, strides), seen.box


def _padding(call: Call) -> Changed | None:
    patch, sides = call.map_, call.argument(1, "pad")
    if patch is None or call.argument(2, "mode", "constant") != "constant" or any(side < 0 for side in sides):
        return None
    if any(sides[4:]):
        return None
    left, top, box = sides[0], sides[2] if len(sides) > 2 else 0, patch.box
    return patch.inside, Box(box.top + top, box.bottom + top, box.left + left, box.right + left)


BY_PIXEL = frozenset(
    {
        *(
            "relu",
            "relu6",
            "hardtanh",
            "leaky_relu",
            "elu",
            "selu",
            "celu",
            "silu",
            "mish",
            "gelu",
            "softplus",
            "clamp",
        ),
        *("hardswish", "hardsigmoid", "sigmoid", "tanh", "neg", "abs", "to", "clone", "batch_norm", "dropout"),
    }
)
"""Operations that make each pixel of the same pixel, and of nothing else that differs from pass to pass."""

RULES: dict[str, Callable[[Call], Changed | None]] = {
    **dict.fromkeys(BY_PIXEL, _by_pixel),
    **dict.fromkeys(("add", "sub", "mul", "div"), _together),
    "cat": _side_by_side,
    "conv2d": _convolution,
    "max_pool2d": _max_pooling,
    "avg_pool2d": _mean_pooling,
    "pad": _padding,
}


class _Seen(NamedTuple):
    box: Box
    """Where the result changes."""
    field: Box
    """What of the map is seen from there; it may reach over the map's edges."""


def _seen(
    patch: Patch,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    paddings: tuple[int, ...],
    dilations: tuple[int, ...],
) -> _Seen | None:
    """A sliding kernel's outputs that see the patch; None where it slides past it."""
    ends, box = (patch.box[:2], patch.box[2:]), list[int]()
    field = list[int]()
    each = zip(ends, patch.around.shape[-2:], sizes, strides, paddings, dilations, strict=True)
    for (start, stop), extent, size, stride, padding, dilation in each:
        reach = dilation * (size - 1) + 1
        count = (extent + 2 * padding - reach) // stride + 1
        first = max(0, -(-(start + padding - reach + 1) // stride))
        last = min(count - 1, (stop - 1 + padding) // stride)
        box += [first, last + 1]
        field += [first * stride - padding, last * stride - padding + reach]
        if last < first:
            return None
    return _Seen(Box(*box), Box(*field))


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * 2 if len(given) == 1 else given


def _box_of(values: Sequence[Any]) -> Box | None:
    """The smallest box that holds those of all patches."""
    boxes = [value.box for value in values if isinstance(value, Patch)]
    return reduce(Box.around, boxes) if boxes else None


def _is_alike_everywhere(value: Any) -> bool:
    """Whether it is a patch, a number, or weights of the model's that are the same at every pixel."""
    if not isinstance(value, Tensor):
        return isinstance(value, Patch | int | float)
    return isinstance(value, nn.Parameter) and (value.numel() == 1 or value.shape[-2:] == (1, 1))
