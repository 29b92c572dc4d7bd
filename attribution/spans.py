"""Which modules of a front can be answered whole: those that have nothing inside that a later pass has to run for.

A model of two hundred calls before a layer is, answered so, a handful of modules, and what is left of a pass is the tail.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any, Protocol

from torch import Tensor, nn

from attribution.calls import tensors_in
from attribution.hooks import following, is_looked_at

OF_SHAPES = frozenset({"__get__", "size", "dim", "ndimension", "numel", "stride", "is_contiguous", "is_floating_point"})
"""Calls that answer with no tensor and say the same of every pass: shapes, layouts and dtypes (`__get__` reads those)."""


def is_of_shapes(function: Callable[..., Any]) -> bool:
    """Whether it is one of those."""
    return getattr(function, "__name__", "") in OF_SHAPES


_PLAIN = frozenset({int, float, bool, complex, str, bytes, NoneType})


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of the torch interface: what was called, and its answer, with placeholders for tensors that need not be kept."""

    function: Callable[..., Any]
    answer: Any

    @property
    def depends_on_numbers(self) -> bool:
        """Whether it tells the model's Python something that other numbers would change, e.g. `x.max().item()`."""
        if self.answer is None or tensors_in(self.answer):
            return False
        return not is_of_shapes(self.function)


class Recording(Protocol):
    """What is known of a pass while it is recorded: tensors are named by placeholders of theirs."""

    calls: list[Call]

    def has_ended(self) -> bool:
        """Whether the place was reached."""

    def aside(self) -> AbstractContextManager[None]:
        """For calls that are none of the model's."""

    def thinned(self, answer: Any) -> Any:
        """The answer with a placeholder for every tensor."""

    def hides(self, span: Span) -> bool:
        """Whether something made inside gets out in another way than by the answer, which a pass without it would miss."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A module from where it was entered to where it was left, as positions among the calls, and its answer."""

    module: nn.Module
    start: int
    stop: int
    answer: Any


class Spans:
    """The modules that a pass enters and leaves before it reaches the place, and that give nothing but their answer.

    A module has to run if somebody's hooks look into it, if it may write into what it is called with, if Python inside sees
    numbers, or if something made inside outlives it beside the answer. And no module is answered whole in a model that
    is not steady, in that passes change what its modules hold: behind the place somebody may read that. None: find out.
    """

    def __init__(self, *, is_steady: bool | None = None) -> None:
        self._is_steady = is_steady
        self._closed: list[Span] = []
        self._open: list[tuple[nn.Module, int]] = []
        self._must_run = 0
        """How many of the open modules, from the outermost, have to run for the sake of one inside."""
        self._entered: Counter[nn.Module] = Counter()
        self._held: dict[nn.Module, list[int]] = {}
        """What the outermost modules hold at first: one, unless the model is a function of several."""

    @contextmanager
    def recorded(self, recording: Recording) -> Iterator[None]:
        """During the pass that is recorded."""

        def enter(module: nn.Module) -> None:
            self._entered[module] += 1
            if not recording.has_ended():
                if self._is_steady is None and not self._open and module not in self._held:
                    self._held[module] = held_by(module)
                self._open.append((module, len(recording.calls)))

        def leave(module: nn.Module, arguments: Any, answer: Any) -> None:
            if recording.has_ended():
                return
            entered, start = self._open.pop()
            while entered is not module:  # one that ended in an exception, which the model has caught
                entered, start = self._open.pop()
            has_to_run, around = self._must_run > len(self._open), len(self._open)
            with recording.aside():
                span = Span(module, start, len(recording.calls), recording.thinned(answer))
                has_to_run = has_to_run or is_looked_at(module) or _can_be_filled(arguments) or recording.hides(span)
            if has_to_run:
                self._must_run = around
            elif span.stop > start:
                self._closed.append(span)

        if self._is_steady is False:
            yield
            return
        with following(enter, leave):
            yield
        if any(held_by(root) != held for root, held in self._held.items()):
            self._closed.clear()

    def outermost(self) -> list[Span]:
        """Those that can be answered whole and lie in no other, in order."""
        found: list[Span] = []
        # From the last to the first, since of two that hold the same calls the outer one was left later.
        for span in sorted(self._closed, key=lambda span: (-span.start, span.stop))[::-1]:
            is_inside = bool(found) and span.start < found[-1].stop
            if not is_inside and self._entered[span.module] == 1:
                found.append(span)
        return found


def held_by(root: nn.Module) -> list[int]:
    """What the modules hold, object by object, numbers and text apart: two passes of most models find the same."""
    found: list[int] = []
    for module in root.modules():
        _note(vars(module), 4, found)
    return found


def _note(value: Any, depth: int, found: list[int]) -> None:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple | set | deque):
        found.append(id(value))
        if not depth or isinstance(value, nn.Module | Tensor | type) or not hasattr(value, "__dict__"):
            return
        value = vars(value).values()
    for item in value if depth else ():
        if type(item) not in _PLAIN:
            _note(item, depth - 1, found)


def _can_be_filled(arguments: Any) -> bool:
    """Whether there are containers among them, to which a module may add something."""
    return any(isinstance(argument, list | dict | set | deque) for argument in arguments)


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
