"""Passes over images that differ from known ones inside a box, computed only where that makes a difference.

The pass over the known images is recorded: what each call made of them. In later passes the model's own code runs as ever,
and a torch function mode computes each call on the patch alone (`patch_rules`), as long as it is small and the call has a rule;
whatever else is called gets whole maps. Between calls the model's Python holds placeholders, of the right shape and full of NaN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attribution.bundle import Features, parts_of
from attribution.calls import canonical, each_tensor, tensors_in
from attribution.passes import Rows
from attribution.patch_rules import Changed, changed
from attribution.patches import Box, Call, Patch
from attribution.spans import is_of_shapes
from attribution.watching import placeholder_for

logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.7
"""Of a map; a larger patch with its margins is as dear as the whole."""

FEWEST = 4
"""Variants for which a pass is recorded and another one verified."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Images with something changed, and where."""

    of: Callable[[Rows], Features]
    """Those of some rows, whole."""
    box: Box | None = None
    """Outside of which nothing is changed; None: anywhere."""


class NearbyDiffers(Exception):  # noqa: N818  # a reason to compute everything, not an error of anybody's
    """A later pass does not call what the recorded one has called."""


class Nearby:
    """Scores of what differs from x (n, c, h, w) inside boxes, from one recorded pass over x."""

    def __init__(self, score: Callable[[Features], Tensor], x: Tensor, smallest: Box) -> None:
        self._score, self._x = score, x
        recording = _Recording(x, smallest)
        with torch.no_grad(), recording:
            score(x)
        self._made = recording.made

    @classmethod
    def of(cls, score: Callable[[Features], Tensor], x: Features, variants: Sequence[Variant]) -> Nearby | None:
        """None where it does not pay: for batches of maps on cores it does, for enough of small variants."""
        if not can_be_patched(x):
            return None
        (images,) = parts_of(x)
        small = [variant.box for variant in variants if variant.box and _is_small(variant.box, images)]
        if len(small) < max(FEWEST, len(variants) / 2):
            return None
        try:
            return cls(score, images, min(small, key=lambda box: box.area))
        except Exception:  # some operation does not take patches of no rows
            logger.info("images are passed whole: a pass can't be recorded", exc_info=True)
            return None

    def score(self, shown: Features, box: Box | None) -> Tensor | None:
        """The score of images that are x's outside the box; None where they have to be passed whole.  -> (n,)"""
        if box is None or not _is_small(box, self._x):
            return None
        assert isinstance(shown, Tensor)
        patching = _Patching(self._made)
        images = patching.shown(Patch(box.of(shown), box, self._x))
        try:
            with torch.no_grad(), patching:
                score = self._score(images)
            told: Tensor = patching.whole(score)
        except NearbyDiffers as reason:  # the model's code takes another way for these images
            logger.info("images are passed whole: %s", reason)
            return None
        except Exception:  # what is the model's own mistake comes again when they are passed whole
            logger.info("images are passed whole: the model does not run on placeholders", exc_info=True)
            return None
        if not bool(told.isfinite().all()):
            # A call that no mode has seen, or a box elsewhere that reaches further than the smallest does.
            logger.info("images are passed whole: a call has read what patches do not tell")
            return None
        return told

    def agrees(self, shown: Features, box: Box | None, known: Tensor) -> bool:
        """Whether the score of these images comes out as it is known to be."""
        if (score := self.score(shown, box)) is None:
            return False
        moved, scale = float((score - known).abs().max()), float(known.abs().max())
        if moved <= torch.finfo(score.dtype).eps ** 0.5 * scale:
            return True
        logger.info("images are passed whole: on patches their scores of %.1e move by %.1e", scale, moved)
        return False


def can_be_patched(x: Features) -> bool:
    """Whether it pays to know in which box features differ from x: in a batch of maps, on cores."""
    parts = parts_of(x)
    # A GPU is as long in starting a small kernel as in running it.
    return len(parts) == 1 and parts[0].dim() == 4 and parts[0].device.type == "cpu"


def _is_small(box: Box, x: Tensor) -> bool:
    return 0 < box.area <= LARGEST_SHARE / 2 * x.shape[-2] * x.shape[-1]


class Made(NamedTuple):
    """What a call made of the known images."""

    name: str
    """The operation's."""
    around: Tensor | None = None
    """The map, if any patch can get that far."""
    is_lost: bool = False
    """Whether it has been written over before it could be read, and is NaN: the next call on it writes where a patch lies."""


class _Recording(TorchFunctionMode):
    """What each call makes, as it was when the next calls read it, as far as the smallest change stays a patch."""

    def __init__(self, x: Tensor, smallest: Box) -> None:
        super().__init__()
        self.made: list[Made] = []
        self._reached = {id(x): Patch(smallest.of(x[:0]), smallest, x[:0])}
        """By the id of a map that is held, the patch of no rows that the smallest change makes of it."""
        self._numbers: dict[int, int] = {}
        """By the same, which call made it last."""
        self._read: set[int] = set()
        """The ids of those that some call has read since."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_of_shapes(func):
            return func(*args, **kwargs)
        name, is_in_place = canonical(func)
        given = tensors_in((args, kwargs))
        told = changed(Call(name, func, *(each_tensor(each, self._meaning) for each in (args, kwargs))))
        if is_in_place and given and id(given[0]) in self._numbers:
            self._overwritten(given[0], told)
        out = func(*args, **kwargs)
        self._read.update(id(tensor) for tensor in given if tensor is not out)
        for tensor in tensors_in(out):  # which may lie where another one lay
            self._reached.pop(id(tensor), None)
            self._numbers.pop(id(tensor), None)
            if is_in_place or not any(tensor is old for old in given):
                self._read.discard(id(tensor))
        if _is_map(out):
            patch = None if told is None else Patch(*told, out[:0])
            if patch is not None and patch.share <= LARGEST_SHARE:
                self._reached[id(out)], self._numbers[id(out)] = patch, len(self.made)
                self.made.append(Made(name, out))
            else:
                self.made.append(Made(name))
        return out

    def _overwritten(self, tensor: Tensor, told: Changed | None) -> None:
        """Keep what a map is until a call writes over it for those that need it: who has read it, or reads around the box now."""
        number = self._numbers[id(tensor)]
        reads_around = told is None or told[1] != self._reached[id(tensor)].box
        is_lost = not reads_around and id(tensor) not in self._read
        was = placeholder_for(tensor) if is_lost else tensor.clone()
        self.made[number] = Made(self.made[number].name, was, is_lost)

    def _meaning(self, tensor: Tensor) -> Any:
        return self._reached.get(id(tensor), tensor)


class _Patching(TorchFunctionMode):
    """Computes each call on patches, as far as that goes."""

    def __init__(self, made: Sequence[Made]) -> None:
        super().__init__()
        self._made, self._number = made, 0
        self._meant: dict[int, tuple[Tensor, Patch | Tensor]] = {}
        """By its id a placeholder, and what it stands for."""

    def shown(self, patch: Patch) -> Tensor:
        """What the model's Python holds for a patch."""
        return self._standing_for(placeholder_for(patch.around), patch)

    def whole(self, value: Any) -> Any:
        """A value with whole maps in place of placeholders."""
        return each_tensor(value, lambda tensor: _whole(self._meaning(tensor)))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_of_shapes(func):
            return func(*args, **kwargs)
        name, is_in_place = canonical(func)
        if not any(id(tensor) in self._meant for tensor in tensors_in((args, kwargs))):
            out = func(*args, **kwargs)
            self._next(name, out)
            return out
        told = None
        if self._is_held():
            told = changed(Call(name, func, *(each_tensor(each, self._meaning) for each in (args, kwargs))))
        if told is None:
            given = self.whole(args)
            out = func(*given, **self.whole(kwargs))
            self._next(name, out)
            if is_in_place:
                self._standing_for(args[0], given[0])
            return out
        made = self._next(name, told[0])
        assert made is not None
        assert made.around is not None
        patch = Patch(*told, made.around)
        meaning = patch if patch.share <= LARGEST_SHARE or made.is_lost else patch.whole()
        if is_in_place:
            return self._standing_for(args[0], meaning)
        return self._standing_for(placeholder_for(patch.around), patch) if meaning is patch else meaning

    def _is_held(self) -> bool:
        """Whether it is known what the call that comes now, if it makes a map, has made of the known images."""
        return self._number < len(self._made) and self._made[self._number].around is not None

    def _next(self, name: str, out: Any) -> Made | None:
        """What the call that has been made made of the known images, if it is a map."""
        if not _is_map(out):
            return None
        made = self._made[self._number] if self._number < len(self._made) else Made("nothing")
        if made.name != name:
            raise NearbyDiffers(f"the model called {name} where it had called {made.name} before")
        self._number += 1
        return made

    def _meaning(self, tensor: Tensor) -> Any:
        found = self._meant.get(id(tensor))
        return tensor if found is None else found[1]

    def _standing_for(self, tensor: Tensor, meaning: Patch | Tensor) -> Tensor:
        self._meant[id(tensor)] = tensor, meaning
        return tensor


def _is_map(out: Any) -> bool:
    return isinstance(out, Tensor) and out.dim() == 4


def _whole(meaning: Patch | Tensor) -> Tensor:
    return meaning.whole() if isinstance(meaning, Patch) else meaning
