"""The audit: after a pass with rules, every node of its autograd graph is linear, a rule's, or reported.

Function modes do not see everything (TorchScript, `torch.ops`, custom autograd functions), the graph does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from attribution.calls import model_line
from attribution.convolutions import Convolved
from attribution.nodes import Ruled
from attribution.propagation import Uncovered

LINEAR = frozenset(
    [
        "Add",
        "Sub",
        "Rsub",
        "Neg",
        "Sum",
        "Mean",
        "Cumsum",
        "Trace",
        "Diagonal",
        "DiagEmbed",
        "Diag",
        "Tril",
        "Triu",
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Reshape",
        "Expand",
        "Permute",
        "Transpose",
        "T",
        "Mt",
        "Squeeze",
        "Unsqueeze",
        "Select",
        "Slice",
        "Narrow",
        "Movedim",
        "Split",
        "SplitWithSizes",
        "UnsafeSplit",
        "UnsafeSplitWithSizes",
        "Unbind",
        "Chunk",
        "Cat",
        "Stack",
        "Repeat",
        "RepeatInterleave",
        "Roll",
        "Flip",
        "Rot90",
        "Index",
        "IndexSelect",
        "Gather",
        "Take",
        "TakeAlongDim",
        "Unfold",
        "UnfoldCopy",
        "AsStrided",
        "Clone",
        "Copy",
        "CopySlices",
        "ToCopy",
        "Alias",
        "Detach",
        "Scatter",
        "ScatterAdd",
        "IndexAdd",
        "IndexPut",
        "IndexCopy",
        "IndexFill",
        "SliceScatter",
        "SelectScatter",
        "MaskedFill",
        "MaskedScatter",
        "MaskedSelect",
        "Where",
        "ConstantPadNd",
        "Pad",
        "ReflectionPad1D",
        "ReflectionPad2D",
        "ReflectionPad3D",
        "ReplicationPad1D",
        "ReplicationPad2D",
        "ReplicationPad3D",
        "AvgPool1D",
        "AvgPool2D",
        "AvgPool3D",
        "AdaptiveAvgPool2D",
        "AdaptiveAvgPool3D",
        "MkldnnAdaptiveAvgPool2D",
        "Im2Col",
        "Col2Im",
        "PixelShuffle",
        "PixelUnshuffle",
        "ChannelShuffle",
        "UpsampleNearest1D",
        "UpsampleNearest2D",
        "UpsampleNearest3D",
        "UpsampleNearestExact1D",
        "UpsampleNearestExact2D",
        "UpsampleNearestExact3D",
        "UpsampleLinear1D",
        "UpsampleBilinear2D",
        "UpsampleBilinear2DAa",
        "UpsampleBicubic2D",
        "UpsampleBicubic2DAa",
        "UpsampleTrilinear3D",
    ]
)
"""Nodes linear in all that comes in; index and condition tensors are constants."""

PRODUCTS = {
    "Mul": (0, 1),
    "Mm": (0, 1),
    "Bmm": (0, 1),
    "Mv": (0, 1),
    "Dot": (0, 1),
    "Addmm": (1, 2),
    "Baddbmm": (1, 2),
    "Addbmm": (1, 2),
    "Addmv": (1, 2),
    "Addcmul": (1, 2),
    "Linear": (0, 1),
    "Bilinear": (0, 1),
    "Convolution": (0, 1),
    "ConvolutionOverrideable": (0, 1),
    "MkldnnLinear": (0, 1),
    "SlowConv2D": (0, 1),
    "GridSampler2D": (1,),
    "GridSampler3D": (1,),
    "Div": (1,),
    "Lerp": (2,),
}
"""Nodes linear in the one of these inputs that carries credit; a place that stands alone must carry none."""

BATCH_NORMS = frozenset(
    {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormWithUpdate", "BatchNormNoUpdate"}
)


def uncovered(score: Tensor, features: Iterable[Tensor], by_gradient: frozenset[str]) -> list[Uncovered]:
    """The nodes between the score and what is credited that no rule covers."""
    is_carrier = {get_gradient_edge(part).node: True for part in features}
    found = []
    for node in _parents_first(score.grad_fn, set(is_carrier)):
        carrying = tuple(is_carrier.get(parent, False) for parent, _ in node.next_functions)
        is_carrier[node] = any(carrying)
        if is_carrier[node] and not is_covered(node, carrying, by_gradient):
            found.append(Uncovered(operation_of(node), model_line(node.metadata.get("traceback_", ()))))
    return found


def _parents_first(root: Any, ends: set[Any]) -> Iterator[Any]:
    """Every node after the nodes that its gradient goes to."""
    done: set[Any] = set(ends)
    stack = [(root, False)]
    while stack:
        node, is_ready = stack.pop()
        if node is None or node in done:
            continue
        if is_ready:
            done.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((parent, False) for parent, _ in node.next_functions)


def is_covered(node: Any, carrying: tuple[bool, ...], by_gradient: frozenset[str]) -> bool:
    """Whether credit passes this node by a rule, or by a gradient that is exact."""
    made_by = getattr(node, "_forward_cls", None)
    if made_by is Ruled or (made_by is Convolved and node.ends is None):
        return True
    operation = operation_of(node)
    if operation in BATCH_NORMS:
        return not getattr(node, "_saved_training", False)
    if operation in PRODUCTS:
        factors = [carrying[place] for place in PRODUCTS[operation] if place < len(carrying)]
        return sum(factors) < (2 if len(PRODUCTS[operation]) > 1 else 1)
    return operation in LINEAR or operation in by_gradient or operation == "AccumulateGrad"


def operation_of(node: Any) -> str:
    """`ReluBackward0` -> `Relu`."""
    name: str = node.name().rpartition("::")[2].rstrip("0123456789")
    return name.removesuffix("Backward").removesuffix("Backwards")
