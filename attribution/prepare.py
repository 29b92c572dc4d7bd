"""Making a copy of the model that computes the same faster, verified against the model as given.

Never changes what a site sees: names stay, and nothing is folded at or beside a layer that the run credits or explains,
nor a BatchNorm for methods with rules for linear operations (LRP), whose maps depend on how a linear function is written.
Rules for nonlinear operations alone (DeepLIFT, Guided Backprop, Deconvolution) see the same numbers there, folded or not.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from attribution.arithmetic import arithmetic, by_torch_alone
from attribution.bundle import parts_of
from attribution.errors import ModelError
from attribution.hooks import Place
from attribution.layer import Layer
from attribution.question import Question
from attribution.score import Score, refuse_training
from attribution.seen import Seen
from attribution.site import Input, Site
from attribution.steps import (
    Pair,
    channels_last,
    convolutions_before_norms,
    convolutions_to_own,
    pads_before_convolutions,
    pools_to_own,
    rectifiers_to_write_in_place,
    with_norms_folded,
    with_own_convolutions,
    with_padding_folded,
    with_rectifiers_in_place,
)

logger = logging.getLogger(__name__)

Step = Callable[[nn.Module], nn.Module]

TOLERANCE = 1e-9
"""How far outputs and gradients may move, relative to their norm. The check runs in float64, where a sum in another order
moves by about 1e-15 for each of some hundred layers, and where a rectifier at its kink does not flip as it does in
float32: what moves by more is another function."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model that is faster to explain, what was done to it, and what was refused and why."""

    model: nn.Module
    done: tuple[str, ...]
    refused: tuple[str, ...]


LAYOUT, PADDING, FOLDING, IN_PLACE = "channels_last", "folded padding", "folded BatchNorm", "rectifiers in place"
OWN = "own convolutions"
STEPS = (LAYOUT, PADDING, FOLDING, IN_PLACE, OWN)


def prepare(
    model: nn.Module,
    questions: Sequence[Question],
    example: Tensor,
    score: Callable[[Any], Tensor] | None = None,
    wanted: Sequence[str] = STEPS,
) -> Prepared:
    """Freeze, and take the steps of `steps.py`, each kept only if every site of the run sees the same.

    example (n, C, H, W): images to compare on. `score` reads the output where that is no tensor. The model as given is
    not touched.
    """
    refuse_training(model)
    prepared = copy.deepcopy(model).requires_grad_(requires_grad=False)
    done, refused = ["frozen"], []
    steps = _steps(prepared, questions, example, wanted)

    def moves(step: Step) -> float:
        # Carried out and compared in float64: what a float32 weight loses when it is rounded anew is not a move.
        try:
            return difference(step(_in_float64(prepared)), prepared, questions, example, score)
        except RuntimeError:  # e.g. a tensor is needed that was written over
            logger.warning("a model that is prepared so does not run", exc_info=True)
            return torch.inf

    def every(model: nn.Module) -> nn.Module:
        return reduce(lambda changed, step: step(changed), steps.values(), model)

    if len(steps) > 1 and moves(every) <= TOLERANCE:  # almost always, and half the time of one by one, in every worker
        return Prepared(every(prepared), (*done, *steps), ())
    for name, step in steps.items():
        moved = moves(step)
        if moved <= TOLERANCE:
            prepared = step(prepared)
            done.append(name)
        else:
            refused.append(f"{name}: moves a site of this run by {moved:.1e}")
            logger.warning("preparation refused: %s", refused[-1])
    return Prepared(prepared, tuple(done), tuple(refused))


KERNELS_TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (1e-4, 0.05),
    torch.float16: (0.02, 0.4),
    torch.bfloat16: (0.1, 1.0),
}
"""How far the output and its gradient may move when kernels are fused, relative to their norm: about what the arithmetic
itself leaves open. Two layouts of the same float32 model differ by up to 0.007 in the gradient, which jumps where a rectifier
flips; float16 and bfloat16 differ from float64 by 0.2 and 0.5 (benchmarks/precision.py). Another function moves by 1 or more."""

BF16X3_TOLERANCE = (1e-3, 0.2)
"""The same of float32 by three products: 4e-6 a convolution, and some hundred of them; rectifiers flip for 0.009 of a gradient."""


def compiled(model: nn.Module, rows: Tensor, backend: str = "inductor") -> Callable[..., Any]:
    """The model compiled for passes of these rows (n, C, H, W), forward and backward, verified against the model itself.

    What a compiler can't take is its own error; a result that moves is a ModelError.
    """
    fast: Callable[..., Any] = torch.compile(model, dynamic=False, backend=backend)
    moved = _distances(*(_told(f, rows, _weighted_sum) for f in (fast, model)))
    if reason := _too_far(moved, _tolerances(rows.dtype)):
        raise ModelError(f"compiling moves {reason}")
    return fast


def as_by_torch(model: nn.Module, rows: Tensor, score: Callable[[Any], Tensor] | None = None) -> str:
    """Why the kernels of ours that the model uses on a GPU are not to be used, if so: what they move, or what they die of.

    They may be as far from float64 as torch's own kernels are in the run's arithmetic, and half as far again: rectifiers
    flip in each for themselves. rows (n, C, H, W), in the model's type and on its device; `score` reads the output where
    that is no tensor.
    """
    read = score or _weighted_sum
    truth = _told(_in_float64(model), rows.double(), read)
    with by_torch_alone():
        left_open = _distances(_told(model, rows, read), truth)
    try:
        moved = _distances(_told(model, rows, read), truth)
    except Exception as error:  # noqa: BLE001  # a kernel's compiler fails in ways of its own; torch's kernels have just worked
        return f"{type(error).__name__}: {str(error).strip()[:200]}"
    allowed = zip(_tolerances(rows.dtype), left_open, strict=True)
    return _too_far(moved, [max(tolerance, 1.5 * distance) for tolerance, distance in allowed])


def _tolerances(dtype: torch.dtype) -> tuple[float, float]:
    return BF16X3_TOLERANCE if arithmetic.bf16x3 and dtype is torch.float32 else KERNELS_TOLERANCE[dtype]


def _distances(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[float]:
    return [_relative(one.double(), other.double()) for one, other in zip(ours, theirs, strict=True)]


def _too_far(distances: Sequence[float], allowed: Sequence[float]) -> str:
    """How far output and gradient are, if that is too far."""
    if all(distance <= limit for distance, limit in zip(distances, allowed, strict=True)):
        return ""
    return "the output by {:.1e} and its gradient by {:.1e}".format(*distances)


def _told(model: Callable[..., Any], rows: Tensor, read: Callable[[Any], Tensor]) -> tuple[Tensor, Tensor]:
    """A pass's output as numbers, taken without a graph, and its gradient."""
    with torch.no_grad():
        output = read(model(rows))
    leaf = rows.detach().requires_grad_()
    with torch.enable_grad():
        total = read(model(leaf)).sum()
    return output, torch.autograd.grad(total, leaf)[0]


def difference(
    model: nn.Module,
    reference: nn.Module,
    questions: Sequence[Question],
    example: Tensor,
    score: Callable[[Any], Tensor] | None = None,
) -> float:
    """The largest relative L2 distance of score, features or gradient between two models, over the run's sites, in float64."""
    read, example = score or _weighted_sum, example.double()
    models = [_in_float64(m) for m in (model, reference)]
    worst = 0.0
    for layer in [None, *sorted(_named_layers(questions))]:
        told, known = (_site(m, layer, read).at(example) for m in models)
        for ours, theirs in (
            (told.score, known.score),
            (told.features, known.features),
            (told.gradient, known.gradient),
        ):
            for part, other in zip(parts_of(ours), parts_of(theirs), strict=True):
                worst = max(worst, _relative(part, other))
    return worst


def _steps(model: nn.Module, questions: Sequence[Question], example: Tensor, wanted: Sequence[str]) -> dict[str, Step]:
    """Those that are wanted, allowed and have something to do."""
    named = _named_layers(questions)
    seen = Seen.passing(model, example, named)
    allowed = [step for step in wanted if step != FOLDING or all(question.method.folds for question in questions)]

    def unnamed(pairs: Sequence[Pair]) -> list[Pair]:
        return [pair for pair in pairs if not named & set(pair)]

    pads, norms = unnamed(pads_before_convolutions(model, seen)), unnamed(convolutions_before_norms(model, seen))
    folded = pads if PADDING in allowed else [], norms if FOLDING in allowed else []
    steps = {
        LAYOUT: channels_last,
        PADDING: _at(with_padding_folded, pads),
        FOLDING: _at(with_norms_folded, norms),
        IN_PLACE: _at(with_rectifiers_in_place, rectifiers_to_write_in_place(model, seen)),
        OWN: _at(
            partial(with_own_convolutions, pools=pools_to_own(model, named)),
            convolutions_to_own(model, seen, *folded, named),
        ),
    }
    return {name: step for name, step in steps.items() if name in allowed and step is not None}


def _at(step: Callable[[nn.Module, Any], nn.Module], places: Sequence[Any]) -> Step | None:
    return (lambda model: step(model, places)) if places else None


def _named_layers(questions: Sequence[Question]) -> frozenset[str]:
    """The layers that the run credits or explains."""
    return frozenset(q.at for q in questions if q.at) | frozenset(q.of.layer for q in questions if q.of)


def _site(model: nn.Module, layer: str | None, read: Callable[[Any], Tensor]) -> Site:
    explained = Score(model=model, read=read)
    return Input(explained) if layer is None else Layer(explained, Place(model.get_submodule(layer), call=0))


def _weighted_sum(output: object) -> Tensor:
    """All outputs as one number per image, so that a move of any target shows."""
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the model returns a {type(output).__name__}: say what to explain with --score package.module:function"
        )
    flat = output.flatten(1)
    # A fixed, uneven weight for each output: a plain sum would hide moves that cancel.
    return flat @ (torch.linspace(-1, 1, flat.shape[1], device=flat.device, dtype=flat.dtype) + 0.1)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    moved, scale = float((ours - theirs).norm()), float(theirs.norm())
    return moved / scale if scale else moved


def _in_float64(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()
