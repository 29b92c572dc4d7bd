"""One call with a rule: what is kept of it, and the node of the graph that asks the rule when gradients flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attribution import native
from attribution.blocks import moved
from attribution.calls import Bound
from attribution.errors import ModelError
from attribution.kept import Kept
from attribution.rules.operations import CLAMPS

Operation = Callable[..., Any]
"""An operation as a function of the tensors that carry credit alone."""

Rule = Callable[[Operation, Tensor, Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
"""(operation, gradient of its output, its inputs, the reference's inputs) -> gradient of each input."""


class PropagationError(ModelError):
    """A pass to which the rules can't be lent as they are."""


class RowsDiffer(PropagationError):  # noqa: N818  # a reason to repeat the row, an error only where there is none
    """The reference has other shapes than the image pass: it needs as many rows."""


@dataclass(slots=True, eq=False)
class Call:
    """One treated call of the image pass: what it is paired by, and what its rule needs when gradients flow."""

    name: str
    is_credited: tuple[bool, ...]
    rule: Rule | None = None
    operation: Bound | None = None
    keeps_inputs: bool = True
    owns_inputs: bool = False
    """Whether nobody else reads what is kept of the inputs."""
    is_last: bool = False
    """Whether gradients will flow here once more only."""
    inputs: list[Kept] = field(default_factory=list)
    reference: list[Kept] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)


class Ruled(torch.autograd.Function):
    """One operation whose backward is a rule."""

    @staticmethod
    def forward(ctx: Any, call: Call, *inputs: Tensor) -> Tensor:
        """Run the operation as it is; in its place if the model does so, on a copy's original where the rule reads it."""
        ctx.call, ctx.forms = call, [(x.shape, x.dtype) for x in inputs]
        assert call.operation is not None
        if call.operation.writes is None:
            result: Tensor = call.operation(*inputs)
            return result
        ctx.mark_dirty(inputs[0])
        copy = call.operation.copy
        if not call.keeps_inputs:
            call.operation.written(inputs[0])
        elif copy is None:
            call.inputs = [Kept(_moved(inputs[0], call.operation))]
        else:
            call.inputs = [Kept(copy)]
            call.operation.written(inputs[0])
        return inputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Ask the rule."""
        call: Call = ctx.call
        assert call.rule is not None
        assert call.operation is not None
        inputs, reference = ([kept.tensor for kept in several] for several in (call.inputs, call.reference))
        gradients = call.rule(call.operation, gradient, inputs, reference)
        if call.is_last:
            # Memory for the calls that wait for theirs; and autograd adds to a gradient in place only where nobody else holds it.
            call.inputs, call.reference = [], []
        return None, *(g.sum_to_size(shape).to(dtype) for g, (shape, dtype) in zip(gradients, ctx.forms, strict=True))


def _moved(x: Tensor, operation: Bound) -> Tensor:
    """A copy of x, over which the operation is then written."""
    copy = native.moved(x, CLAMPS[operation.name](operation)) if operation.name in CLAMPS else None
    return moved(x, operation.written) if copy is None else copy


def check_rows(call: Call) -> None:
    for of_image, of_reference in zip(call.inputs, call.reference, strict=True):
        shape, reference = of_image.tensor.shape, of_reference.tensor.shape
        if len(reference) != len(shape) or any(r not in (1, s) for r, s in zip(reference, shape, strict=True)):
            raise RowsDiffer(
                f"{call.name} has shape {tuple(shape)} in the image pass and {tuple(reference)} in the reference pass"
            )
