"""Recording the calls a model makes before a layer, and answering them again without computing.

A torch function mode sees every call of the torch interface in order. Of the recorded pass, a result made before the
layer is kept only if something behind the layer uses it (a skip connection); all others become placeholders of the same
shape that hold NaN and no memory. In later passes each call before the layer is answered from the record, and a module
that was entered and left before it is answered whole where nothing inside has to run (`spans`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attribution.calls import each_tensor, tensors_in
from attribution.hooks import Parts, Place
from attribution.spans import Call, Span, Spans, answered, outside
from attribution.tap import Tap
from attribution.watching import Watching, placeholder_for


class FrontDiffers(Exception):  # noqa: N818  # a reason to take the other path, not an error of anybody's
    """The calls before the layer can't be answered from the record."""


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """The answers to all calls that a model makes before `place`."""

    place: Place
    activation: Parts
    """The tensors at the place in the recorded pass."""
    output: Any
    """What the recorded pass put out."""
    calls: tuple[Call, ...]
    """Those that no module below makes."""
    modules: tuple[tuple[nn.Module, Any], ...]
    """The modules that are answered whole, with their answers."""
    kept: tuple[tuple[Tensor, int], ...]
    """The tensors used behind the layer, with their version counters: a moved counter means they were overwritten."""

    @classmethod
    def record(cls, forward: Callable[[], Any], place: Place, like: Front | None = None) -> Front:
        """Record one pass; `like` is one of the same model over other rows.

        The first is replayed at once and compared, which exposes calls that no mode sees.
        """
        recording = _Recording()
        spans = Spans(is_steady=None if like is None else bool(like.modules))
        with recording, Tap(place, on_reach=recording.end) as tap, spans.recorded(recording):
            output = forward()
        whole = spans.outermost()
        calls = tuple(Call(call.function, recording.whole(call.answer)) for call in outside(recording.calls, whole))
        modules = tuple((span.module, recording.whole(span.answer)) for span in whole)
        front = cls(place, tap.parts, output, calls, modules, tuple(recording.used.values()))
        if like is None:
            with front.answering() as answers, Tap(place, replacement=tap.parts, on_reach=answers.end):
                replayed = forward()
            # A call that escaped the mode has computed with placeholders, and its NaN has reached the output.
            pairs = zip(tensors_in(output), tensors_in(replayed), strict=True)
            if not all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in pairs):
                raise FrontDiffers("some of the model's calls before the layer are not seen by torch function modes")
        return front

    @property
    def left(self) -> tuple[Tensor, ...]:
        """What the calls before the place leave for those behind it."""
        return tuple(tensor for tensor, _ in self.kept)

    @property
    def is_overwritten(self) -> bool:
        """Whether something behind the place has written into what is kept for it."""
        return any(tensor._version != version for tensor, version in self.kept)  # noqa: SLF001  # the documented counter has no public name

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that the recorded pass told."""
        return (*tensors_in(self.output), *self.activation, *self.left)

    def telling(self, tensors: Sequence[Tensor]) -> Front:
        """The same calls in a pass that told other tensors in place of these."""
        others = {id(old): new for old, new in zip(self.tensors, tensors, strict=True)}
        left = self.leaving(tensors[len(tensors) - len(self.kept) :])
        return replace(left, output=_exchanged(self.output, others), activation=_exchanged(self.activation, others))

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """What is called before the place and has to be answered, in order."""
        return tuple(call.function for call in self.calls)

    def leaving(self, left: Sequence[Tensor]) -> Front:
        """The same calls, leaving other tensors in place of these: those of other images, say."""
        others = {id(old): new for old, new in zip(self.left, left, strict=True)}
        calls = tuple(Call(call.function, _exchanged(call.answer, others)) for call in self.calls)
        modules = tuple((module, _exchanged(answer, others)) for module, answer in self.modules)
        return replace(self, calls=calls, modules=modules, kept=tuple((tensor, tensor._version) for tensor in left))  # noqa: SLF001  # see answering

    @contextmanager
    def answering(self) -> Iterator[_Answering]:
        """A pass in which the calls before the place are answered from the record."""
        if self.is_overwritten:
            raise FrontDiffers("the model overwrites a tensor made before the layer")
        answers = _Answering(self.calls)
        with answers, answered(self.modules):
            yield answers


class _Recording(Watching):
    """The calls before the place, which hold no tensor: what nobody else holds is free to be written over, as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.used: dict[int, tuple[Tensor, int]] = {}
        """By the id of its placeholder, what is read behind the place, with its version counter."""
        self._made: dict[int, tuple[ReferenceType[Tensor], Tensor]] = {}
        """By its id, a tensor and its placeholder."""
        self._origins: dict[int, tuple[ReferenceType[Tensor], int]] = {}
        """By its placeholder's id, a tensor, and the number of the call that answered with it first."""
        self._ended = False

    def end(self) -> None:
        self._ended = True

    def has_ended(self) -> bool:
        return self._ended

    def thinned(self, answer: Any) -> Any:
        """The answer with a placeholder for every tensor."""
        return each_tensor(answer, self._placeholder_of)

    def hides(self, span: Span) -> bool:
        """Whether Python inside is told numbers, or a tensor made inside is still there and lies elsewhere than the answer."""
        given = {_address(made) for made, _ in map(self._origin_of, tensors_in(span.answer)) if made is not None}
        inside = self.calls[span.start : span.stop]
        origins = [self._origin_of(placeholder) for call in inside for placeholder in tensors_in(call.answer)]
        return any(call.depends_on_numbers for call in inside) or any(
            tensor is not None and first >= span.start and _address(tensor) not in given for tensor, first in origins
        )

    def _origin_of(self, placeholder: Tensor) -> tuple[Tensor | None, int]:
        """What it stands for, if that is still there, and the first call that answered with it."""
        tensor, first = self._origins[id(placeholder)]
        return tensor(), first

    def whole(self, answer: Any) -> Any:
        """The thinned answer with what is read behind the place put back."""
        return _exchanged(answer, {key: tensor for key, (tensor, _) in self.used.items()})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._ended:
            for tensor in tensors_in((args, kwargs)):
                made, placeholder = self._made.get(id(tensor), _NOTHING)
                if made() is tensor:
                    self.used.setdefault(id(placeholder), (tensor, tensor._version))  # noqa: SLF001  # as above
            return func(*args, **(kwargs or {}))
        answer = func(*args, **(kwargs or {}))
        if not self.is_aside:
            self.calls.append(Call(func, self.thinned(answer)))
        return answer

    def _placeholder_of(self, tensor: Tensor) -> Tensor:
        made, placeholder = self._made.get(id(tensor), _NOTHING)
        if made() is not tensor:
            placeholder = placeholder_for(tensor)
            self._made[id(tensor)] = ref(tensor), placeholder
            self._origins[id(placeholder)] = ref(tensor), len(self.calls)
        return placeholder


class _Answering(TorchFunctionMode):
    def __init__(self, calls: tuple[Call, ...]) -> None:
        super().__init__()
        self._calls = iter(calls)
        self._ended = False

    def end(self) -> None:
        self._ended = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._ended:
            return func(*args, **(kwargs or {}))
        call = next(self._calls, None)
        if call is None or call.function != func:
            raise FrontDiffers(
                f"the model called {getattr(func, '__name__', func)} where it had called another function before"
            )
        return call.answer


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _exchanged(answer: Any, others: Mapping[int, Tensor]) -> Any:
    """The answer with some tensors replaced by others, by id."""
    return each_tensor(answer, lambda tensor: others.get(id(tensor), tensor))


_NOTHING: tuple[Callable[[], Tensor | None], Tensor] = (lambda: None, torch.empty(0))
