"""What layers with a finite field of view make of a map that differs from a known one inside a box only.

Nakandala, Kumar and Papakonstantinou 2019, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations", SIGMOD, sec. 4: a convolution changes its output only where its kernel reaches into the box, and needs for
that the box and a margin as wide as the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from attribution.convolutions import conv2d, fused_conv2d
from attribution.geometry import pair
from attribution.patches import Box, Call, Patch
from attribution.pooling import max_pool2d

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
    if patch is None or isinstance(padding, str) or call.argument(8, "added") is not None:
        return None
    bias, groups = call.argument(2, "bias"), call.argument(6, "groups", 1)
    strides, dilations = pair(call.argument(3, "stride", 1)), pair(call.argument(5, "dilation", 1))
    if (seen := _seen(patch, tuple(weight.shape[-2:]), strides, pair(padding), dilations)) is None:
        return None
    field, geometry = patch.within(seen.field), (strides, (0, 0), dilations, groups)
    if call.name == "conv2d":
        return conv2d(field, weight, bias, *geometry), seen.box
    return fused_conv2d(field, weight, bias, *geometry, call.argument(7, "ends"), None), seen.box


def _max_pooling(call: Call) -> Changed | None:
    patch, size = call.map_, call.argument(1, "kernel_size")
    is_plain = not call.argument(5, "ceil_mode", default=False) and not call.argument(
        6, "return_indices", default=False
    )
    if patch is None or not is_plain:
        return None
    sizes, strides = pair(size), pair(call.argument(2, "stride") or size)
    dilations = pair(call.argument(4, "dilation", 1))
    if (seen := _seen(patch, sizes, strides, pair(call.argument(3, "padding", 0)), dilations)) is None:
        return None
    return max_pool2d(patch.within(seen.field, -torch.inf), sizes, strides, 0, dilations), seen.box


def _mean_pooling(call: Call) -> Changed | None:
    patch, size = call.map_, call.argument(1, "kernel_size")
    is_plain = not call.argument(4, "ceil_mode", default=False) and pair(call.argument(3, "padding", 0)) == (0, 0)
    if patch is None or not is_plain or call.argument(6, "divisor_override") is not None:
        return None
    sizes, strides = pair(size), pair(call.argument(2, "stride") or size)
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
    **dict.fromkeys(("conv2d", "fused_conv2d"), _convolution),
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


def _box_of(values: Sequence[Any]) -> Box | None:
    """The smallest box that holds those of all patches."""
    boxes = [value.box for value in values if isinstance(value, Patch)]
    return reduce(Box.around, boxes) if boxes else None


def _is_alike_everywhere(value: Any) -> bool:
    """Whether it is a patch, a number, or weights of the model's that are the same at every pixel."""
    if not isinstance(value, Tensor):
        return isinstance(value, Patch | int | float)
    return isinstance(value, nn.Parameter) and (value.numel() == 1 or value.shape[-2:] == (1, 1))
