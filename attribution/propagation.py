"""Rules lent to a forward pass: what credit does at each operation, whoever calls it.

A torch function mode sees every operation of a pass (`relu`, `max_pool2d`, `silu`, `matmul`, `layer_norm`, ...), whether
a module, a functional call, an operator or an in-place method made it. An operation that has a treatment runs as a node
whose backward is the rule; everything else stays plain autograd. So `torch.autograd.grad` of such a pass gives the
multipliers of DeepLIFT, the signal of Guided Backprop, or relevance per unit of activation:

    with lent(rules) as lending:
        score = f(x)
    with lending.reference():                        # for rules that compare: the same pass at the baseline
        f(baseline)
    multiplier = torch.autograd.grad(score.sum(), x)

The reference pass runs without gradients; its n-th treated call is paired with the n-th of the image pass, and a call
that differs is an error. Its tensors may have one row where the image pass has many. Rules work when gradients flow, so
one image pass can be read against several references. Modes belong to a thread: other users of the model see nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attribution.calls import Bound, canonical, constant, model_line, opened, out_of_place, tensors_in
from attribution.clamp import hardtanh_
from attribution.convolutions import fused_conv2d, in_steps
from attribution.deferred import Deferred
from attribution.kept import KeptTensors
from attribution.nodes import Call, PropagationError, RowsDiffer, Rule, Ruled, check_rows
from attribution.rules.operations import ELEMENTWISE, SUMS
from attribution.watching import Watching

Treatment = Callable[["Lending", Bound], Any]
"""How one call runs: `lending.apply(bound, rule)`, or other operations written in its place."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """A propagation method: the treatment of each operation by its name."""

    name: str
    treatments: Mapping[str, Treatment]
    audited: bool = True
    """Whether plain gradients are wrong anywhere but at linear operations."""
    by_gradient: frozenset[str] = frozenset()
    """Nonlinear nodes of the autograd graph whose plain gradient is the rule."""


QUERIES = frozenset({"dim", "size", "numel", "stride"})
"""What can be asked of a tensor without reading it."""


@dataclass(slots=True, eq=False)
class Watched:
    """How many calls of the pass read an output."""

    readers: int = 0


@dataclass(frozen=True, slots=True)
class Uncovered:
    """An operation that no rule covers, and where it was called."""

    operation: str
    place: str

    def __str__(self) -> str:
        return f"{self.operation} (called at {self.place})"


class Lending(Watching):
    """The state of one pass with rules, and of the reference passes paired with it."""

    defers = True
    """Convolutions may wait for what comes behind them, see `deferred`."""

    def __init__(self, rules: Rules, *, counts: bool = True) -> None:
        super().__init__()
        self.rules = rules
        self.calls: list[Call] = []
        self.functions: list[Callable[..., Any]] = []
        """All that the image pass called, treated or not."""
        self.uncovered: list[Uncovered] = []
        self.counts = counts
        self.absorbed: dict[str, Tensor] = {}
        """What rules took out of the relevance on its way, summed over the rows, by reason, if that is counted."""
        self._paired: Iterator[Call] | None = None
        self.kept = KeptTensors()
        self._current = Call("", ())
        self._open: list[Callable[..., Any]] = []
        self._before = self._ahead = 0
        """Calls before anything carries credit: of the image pass, and those that the reference pass has still to make."""
        self._has_credit = False
        self.watched: dict[int, tuple[Tensor, Watched]] = {}
        """Outputs of which it matters who reads them, by their id, while the pass goes forward."""

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The pass at the baseline: without gradients, call by call with the image pass."""
        self._paired, self._ahead = iter(self.calls), self._before
        try:
            with torch.no_grad(), self:
                yield
            left = next(self._paired, None)
            if left is not None:
                raise PropagationError(
                    f"the image pass called {left.name}, the reference pass ended before: {_WAY_OUT}"
                )
        finally:
            self._paired = None
            self.kept.clear()

    def end(self) -> None:
        """Gradients will flow once more only: inputs that nobody else reads are the rules' to write over."""
        for call in self.calls:
            call.is_last = True
            if call.operation is not None:
                call.operation.gives_inputs = call.owns_inputs

    def forget(self) -> None:
        """Gradients have flowed. Calls hold tensors, whose graph holds the calls: a circle that Python can't see through."""
        for call in self.calls:
            call.rule = call.operation = None
            call.inputs, call.reference, call.constants = [], [], []
        self.calls = []

    def recording(self) -> list[Call]:
        """The reference's side of the calls, once its pass is over."""
        return [replace(call, rule=None, operation=None, inputs=call.reference, reference=[]) for call in self.calls]

    def adopt(self, recording: Sequence[Call]) -> bool:
        """Pair the image pass with a reference pass made beside another; False where the calls aren't the same."""
        if [(call.name, call.is_credited) for call in self.calls] != [
            (call.name, call.is_credited) for call in recording
        ]:
            return False
        for call, known in zip(self.calls, recording, strict=True):
            if len(call.constants) != len(known.constants) or not all(map(_equal, call.constants, known.constants)):
                return False
            call.reference = known.inputs
        return True

    def apply(self, bound: Bound, rule: Rule, *results: Tensor) -> Any:
        """Run the call as a node whose backward is `rule`; it gets these results of the call after the inputs."""
        call, inputs = self._current, bound.credited
        if self._paired is None:
            call.rule, call.operation = rule, bound
            is_only_here = bound.copy is None if bound.writes is not None else not self.kept.holds(inputs[0])
            call.owns_inputs = is_only_here and (bound.writes or bound.could_write) is not None
            if bound.writes is None:
                call.inputs = [self.kept.keep(tensor) for tensor in (*inputs, *results)]
            return Ruled.apply(call, *inputs)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        call.reference = [self.kept.keep(tensor) for tensor in (*inputs, *results)]
        if bound.writes is not None:
            self.kept.protect(inputs[0])
        check_rows(call)
        return bound()

    def apply_to_result(self, bound: Bound, rule: Rule) -> Any:
        """The same for a rule that reads what came out of the call in place of what went in."""
        call = self._current
        call.rule, call.operation, call.keeps_inputs = rule, bound, False
        if bound.could_write is not None:
            self.kept.protect(bound.credited[0])
            bound.writes = bound.could_write
        result = Ruled.apply(call, *bound.credited)  # type: ignore[no-untyped-call]  # as above
        call.inputs = [self.kept.keep(result)]
        return result

    def rewrite(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run other operations in a call's place; they are seen like the model's own."""
        with self:
            return function(*args, **kwargs)

    def expect_equal(self, bound: Bound) -> None:
        """A constant that differs between image and reference was computed from the images: report it."""
        if self._paired is None:
            self._current.constants = bound.constants
        elif not all(map(_equal, self._current.constants, bound.constants)):
            self.report(f"{bound.name} by a constant that depends on the image")

    def report(self, operation: str) -> None:
        """Record an operation that no rule covers, called here."""
        self.uncovered.append(Uncovered(operation, model_line(traceback.format_stack())))

    def absorb(self, reason: str, relevance: Callable[[], Tensor]) -> None:
        """Add up what a rule keeps to itself, where anybody asks for that."""
        if not self.counts:
            return
        total = relevance().nan_to_num(0, 0, 0).sum(dtype=torch.float64)  # a masked logit is no relevance times -inf
        self.absorbed[reason] = self.absorbed[reason] + total if reason in self.absorbed else total

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if Deferred in types:
            return self.rewrite(Deferred.__torch_function__, func, types, args, kwargs)
        if self.is_aside or self._is_before_credit(args, kwargs):
            return func(*args, **kwargs)
        inside = opened(func)
        if func is fused_conv2d and func.__name__ not in self.rules.treatments:
            inside = in_steps
        if inside is not None and func not in self._open:
            with self, self._opening(func):
                return inside(*args, **kwargs)
        if self._paired is None:
            self.functions.append(func)
        name, is_in_place = canonical(func)
        treatment = self.rules.treatments.get(name)
        copy = self.kept.protect(args[0]) if is_in_place and (treatment is None or func is not hardtanh_) else None
        if treatment is None:
            if self.watched and name not in QUERIES:
                self._note_readers(tensors_in((args, kwargs)))
            return func(*constant(args), **constant(kwargs))
        bound = Bound(name, func, args, kwargs)
        self._note_readers(bound.tensors)
        self._current = self._next_call(bound)
        if not any(bound.is_credited):
            return bound()
        if not is_in_place or (name in SUMS and bound.is_credited[0]):  # autograd takes these in place as they are
            return treatment(self, bound)
        if func is hardtanh_:
            bound.could_write, bound.function = func, out_of_place(name)
            return treatment(self, bound)
        if name in ELEMENTWISE and bound.is_of_one_tensor and not args[0]._is_view():  # noqa: SLF001  # of Tensor
            bound.writes, bound.function, bound.copy = func, out_of_place(name), copy
            return treatment(self, bound)
        # The model may go on with either the result or the tensor that was written to.
        bound.become(out_of_place(name), args[0].clone())
        return args[0].copy_(treatment(self, bound))

    def _is_before_credit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this is one of the calls on the way to a layer, which no rule concerns."""
        if self._paired is not None:
            self._ahead -= 1
            return self._ahead >= 0
        if not self._has_credit:
            self._has_credit = any(tensor.requires_grad for tensor in tensors_in((args, kwargs)))
            self._before += not self._has_credit
        return not self._has_credit

    @contextmanager
    def _opening(self, function: Callable[..., Any]) -> Iterator[None]:
        """While a function is open, what comes back to it by its name (as `Tensor.unflatten` does) computes itself."""
        self._open.append(function)
        try:
            yield
        finally:
            self._open.pop()

    def _note_readers(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) in self.watched:
                self.watched[id(tensor)][1].readers += 1

    def _next_call(self, bound: Bound) -> Call:
        """A new call of the image pass, or the one that this call of the reference pass is paired with."""
        if self._paired is None:
            self.calls.append(Call(bound.name, bound.is_credited))
            return self.calls[-1]
        call = next(self._paired, Call("nothing more", ()))
        if (call.name, len(call.is_credited)) != (bound.name, len(bound.is_credited)):
            place = model_line(traceback.format_stack())
            raise PropagationError(
                f"the reference pass calls {bound.name} (at {place}) where the image pass called {call.name}: {_WAY_OUT}"
            )
        bound.is_credited = call.is_credited
        return call


_WAY_OUT = "the model's calls depend on the pixels, choose a method without a reference pass"


@contextmanager
def lent(rules: Rules, *, counts: bool = True) -> Iterator[Lending]:
    """Lend `rules` to the passes of this block, in this thread; `counts` says whether what they absorb is added up.

    Whoever has taken the gradients says `forget()`, else the pass stays in memory for good.
    """
    lending = Lending(rules, counts=counts)
    try:
        with lending:
            yield lending
    except BaseException:
        lending.forget()
        raise
    finally:
        lending.kept.clear()  # what is written after the pass is no longer the pass's
        lending.watched.clear()


def _equal(of_image: Tensor, of_reference: Tensor) -> bool:
    if of_image.data_ptr() == of_reference.data_ptr() and of_image.shape == of_reference.shape:
        return True
    try:
        return bool((of_image == of_reference).all())
    except RuntimeError as error:
        raise RowsDiffer(f"a constant has shape {tuple(of_image.shape)} and {tuple(of_reference.shape)}") from error
