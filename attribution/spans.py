"""Which modules of a front can be answered whole: those that have nothing inside that a later pass has to run for.

A model of two hundred calls before a layer is, answered so, a handful of modules, and what is left of a pass is the tail.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from attribution.calls import tensors_in
from attribution.hooks import following, is_looked_at

OF_SHAPES = frozenset({"__get__", "size", "dim", "ndimension", "numel", "stride", "is_contiguous", "is_floating_point"})
"""Calls that answer with no tensor and say the same of every pass: shapes, layouts and dtypes (`__get__` reads those)."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of the torch interface: what was called, and its answer, with placeholders for tensors that need not be kept."""

    function: Callable[..., Any]
    answer: Any

    @property
    def depends_on_numbers(self) -> bool:
        """Whether it tells the model's Python something that other numbers would change, e.g. `x.max().item()`."""
        return not tensors_in(self.answer) and getattr(self.function, "__name__", "") not in OF_SHAPES


class Recording(Protocol):
    """What is known of a pass while it is recorded: tensors are named by placeholders of theirs."""

    calls: list[Call]

    def has_ended(self) -> bool:
        """Whether the place was reached."""

    def thinned(self, answer: Any) -> Any:
        """The answer with a placeholder for every tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A module from where it was entered to where it was left, as positions among the calls, and its answer."""

    module: nn.Module
    start: int
    stop: int
    answer: Any

    def hides(self, calls: Sequence[Call], used: AbstractSet[int]) -> bool:
        """Whether something made inside gets out in another way than by the answer, which a pass without it would miss."""
        inside = calls[self.start : self.stop]
        given = {id(tensor) for tensor in tensors_in(self.answer)}
        made = {id(tensor) for call in inside for tensor in tensors_in(call.answer)}
        return any(call.depends_on_numbers for call in inside) or bool(made & used - given)


class Spans:
    """The modules that a pass enters and leaves before it reaches the place; nobody's hooks look into them."""

    def __init__(self) -> None:
        self.closed: list[Span] = []
        self._open: list[tuple[nn.Module, int]] = []
        self._looked_at = 0
        """How many of the open modules, from the outermost, have to run because of a hook on them or inside."""
        self._entered: Counter[nn.Module] = Counter()

    @contextmanager
    def recorded(self, recording: Recording) -> Iterator[None]:
        """During the pass that is recorded."""

        def enter(module: nn.Module) -> None:
            self._entered[module] += 1
            if not recording.has_ended():
                self._open.append((module, len(recording.calls)))
                if is_looked_at(module):
                    self._looked_at = len(self._open)

        def leave(module: nn.Module, answer: Any) -> None:
            if recording.has_ended():
                return
            entered, start = self._open.pop()
            while entered is not module:  # one that ended in an exception, which the model has caught
                entered, start = self._open.pop()
            if len(self._open) >= self._looked_at and len(recording.calls) > start:
                self.closed.append(Span(module, start, len(recording.calls), recording.thinned(answer)))
            self._looked_at = min(self._looked_at, len(self._open))

        with following(enter, leave):
            yield

    def outermost(self, calls: Sequence[Call], used: AbstractSet[int]) -> list[Span]:
        """Those that can be answered whole and lie in no other, in order; `used`: placeholders, by id, of what is read behind the place."""
        found: list[Span] = []
        # From the last to the first, since of two that hold the same calls the outer one was left later.
        for span in sorted(self.closed, key=lambda span: (-span.start, span.stop))[::-1]:
            is_inside = bool(found) and span.start < found[-1].stop
            if not is_inside and self._entered[span.module] == 1 and not span.hides(calls, used):
                found.append(span)
        return found


def outside(calls: Sequence[Call], spans: Sequence[Span]) -> list[Call]:
    """The calls that no span holds."""
    left, position = list[Call](), 0
    for span in spans:
        left += calls[position : span.start]
        position = span.stop
    return left + list(calls[position:])


@contextmanager
def answered(answers: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
    """In this thread each of these modules gives its answer instead of computing it."""
    with ExitStack() as stack:
        for module, answer in answers:
            stack.enter_context(_answering(module, answer))
        yield


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    owner, forward, own = threading.get_ident(), module.forward, module.__dict__.get("forward")

    def instead(*args: Any, **kwargs: Any) -> Any:
        return answer if threading.get_ident() == owner else forward(*args, **kwargs)

    module.__dict__["forward"] = instead
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
