"""GUIDED and DECONVOLVED: what two classics let pass at a rectifier; everything else is the plain gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attribution import native
from attribution.blocks import write_into
from attribution.calls import Bound
from attribution.convolutions import fused_conv2d, gradient_of_input, in_steps
from attribution.geometry import Geometry
from attribution.nodes import Operation, Rule
from attribution.propagation import Lending, Rules, Treatment
from attribution.rules.difference import by_place, derivative
from attribution.rules.operations import CLAMPS, CUTS, RECTIFIERS


def guided(f: Operation, gradient: Tensor, inputs: Sequence[Tensor], _reference: Sequence[Tensor]) -> tuple[Tensor]:
    """Only what is positive on the way forward and on the way back: relu(gradient) * relu(f'(x)).

    For ReLU, f' is 1 where x > 0 (Springenberg et al. 2015, arXiv:1412.6806, section 3.4). A smooth rectifier (SiLU,
    GELU, Hardswish, ...) keeps its own slope in place of the step; where that is negative, in the dip left of zero,
    nothing passes, as ReLU never turns a sign.
    """

    def write(signal: Tensor, x: Tensor, gradient: Tensor) -> None:
        torch.mul(gradient.relu(), derivative(f, x).relu_(), out=signal)

    return (by_place(f, write, inputs[0], gradient),)


def guided_step(upper: float) -> Rule:
    """The same for ReLU, or ReLU6 with its upper end, from what came out: between the ends the slope is 1."""

    def write(signal: Tensor, y: Tensor, gradient: Tensor) -> None:
        torch.ops.aten.hardtanh_backward.grad_input(gradient, y, 0, upper, grad_input=signal)
        signal.clamp_(min=0)

    def rule(_f: Operation, gradient: Tensor, results: Sequence[Tensor], _reference: Sequence[Tensor]) -> tuple[Tensor]:
        signal = torch.empty_like(results[0])
        if not native.guide(signal, results[0], gradient, upper):
            write_into(signal, write, results[0], gradient)
        return (signal,)

    return rule


def deconvolved(
    _f: Operation, gradient: Tensor, _inputs: Sequence[Tensor], _reference: Sequence[Tensor]
) -> tuple[Tensor]:
    """relu(gradient), whatever went forward (Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1); of every rectifier alike."""
    return (gradient.relu(),)


def guide(lending: Lending, bound: Bound) -> Any:
    """Guided Backprop's treatment: by the result, which is there anyway, where that says enough."""
    if not is_rectifier(bound):
        return bound()
    if bound.name in CLAMPS and bound.is_of_one_tensor:
        _, upper = CLAMPS[bound.name](bound)
        return lending.apply_to_result(bound, guided_step(upper))
    return lending.apply(bound, guided)


def deconvolve(lending: Lending, bound: Bound) -> Any:
    """Deconvolution's treatment."""
    return lending.apply_to_result(bound, deconvolved) if is_rectifier(bound) else bound()


def in_a_convolution(gate: Callable[[float], Rule]) -> Treatment:
    """The treatment of a convolution that rectifies: `gate(upper)` at what comes out of it, and the plain gradient behind that."""

    def treatment(lending: Lending, bound: Bound) -> Any:
        x, weight, _, *geometry, ends, added = bound.args
        if ends is None or ends[0] != 0 or ends[1] < 1:  # see _cuts_at_zero
            return lending.rewrite(in_steps, *bound.args)
        passed, layout = gate(ends[1]), (x.shape, x.stride())

        def rule(
            f: Operation, gradient: Tensor, results: Sequence[Tensor], reference: Sequence[Tensor]
        ) -> tuple[Tensor, ...]:
            (signal,) = passed(f, gradient, results, reference)
            found = gradient_of_input(signal, weight, Geometry(*geometry), *layout)
            return (found,) if added is None else (found, signal)

        return lending.apply_to_result(bound, rule)

    return treatment


def is_rectifier(bound: Bound) -> bool:
    """Operations that are rectifiers always, and those that are where they cut at zero, as hardtanh(0, 6) and clamp(min=0)."""
    return len(bound.credited) == 1 and (bound.name in RECTIFIERS or _cuts_at_zero(bound))


def _cuts_at_zero(bound: Bound) -> bool:
    if bound.name in CLAMPS and bound.is_of_one_tensor:
        low, high = CLAMPS[bound.name](bound)
        return low == 0 and high >= 1
    # On the CPU where the call has no other tensor, so that no device is waited for.
    (x,) = bound.credited
    ends = (torch.tensor([n], dtype=x.dtype, device="cpu" if bound.is_of_one_tensor else x.device) for n in (-1, 1))
    below, above = (bound(end) for end in ends)
    return bool((below == 0).all() and (above == 1).all())


NAMES = RECTIFIERS | CUTS
GUIDED = Rules(
    name="guided_backprop",
    treatments={**dict.fromkeys(NAMES, guide), fused_conv2d.__name__: in_a_convolution(guided_step)},
    audited=False,
)
DECONVOLVED = Rules(
    name="deconvolution",
    treatments={**dict.fromkeys(NAMES, deconvolve), fused_conv2d.__name__: in_a_convolution(lambda _: deconvolved)},
    audited=False,
)
