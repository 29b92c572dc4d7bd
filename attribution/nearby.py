"""Passes over images that differ from known ones inside a box, computed only where that makes a difference.

The pass over the known images is recorded: what each call made of them. In later passes the model's own code runs as ever,
and a torch function mode computes each call on the patch alone (`patches`), as long as it is small and the call has a rule;
whatever else is called gets whole maps. Between calls the model's Python holds placeholders, of the right shape and full of NaN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, parts_of
from attribution.calls import canonical, each_tensor, tensors_in
from attribution.passes import Rows
from attribution.patches import BY_PIXEL, Box, Call, Patch, changed
from attribution.spans import OF_SHAPES
from attribution.watching import Watching, placeholder_for

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

    def __init__(self, score: Callable[[Features], Tensor], x: Tensor) -> None:
        self._score, self._x = score, x
        with torch.no_grad(), _Recording() as recording:
            score(x)
        self._made = recording.made

    @classmethod
    def of(cls, score: Callable[[Features], Tensor], x: Features, variants: Sequence[Variant]) -> Nearby | None:
        """None where it does not pay: for batches of maps on cores it does, for enough of small variants."""
        parts = parts_of(x)
        # A GPU is as long in starting a small kernel as in running it.
        if len(parts) != 1 or parts[0].dim() != 4 or parts[0].device.type != "cpu":
            return None
        small = sum(_is_small(variant.box, parts[0]) for variant in variants)
        return cls(score, parts[0]) if small >= max(FEWEST, len(variants) / 2) else None

    def score(self, shown: Features, box: Box | None) -> Tensor | None:
        """The score of images that are x's outside the box; None where they have to be passed whole.  -> (n,)"""
        if not _is_small(box, self._x):
            return None
        assert box is not None
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
        return told

    def agrees(self, shown: Features, box: Box | None, known: Tensor) -> bool:
        """Whether the score of these images comes out as it is known to be."""
        try:
            score = self.score(shown, box)
        except Exception:  # whatever the model makes of placeholders, it has passed the images themselves
            logger.info("images are passed whole: the model does not run on placeholders", exc_info=True)
            return False
        if score is None:
            return False
        # A call that no mode has seen has computed with NaN.
        moved = float((score - known).abs().max() / known.abs().max())
        close: bool = moved <= torch.finfo(score.dtype).eps ** 0.5
        if not close:
            logger.info("images are passed whole: some of the model's calls are not seen by torch function modes")
        return close


def _is_small(box: Box | None, x: Tensor) -> bool:
    return box is not None and 0 < box.area <= LARGEST_SHARE / 2 * x.shape[-2] * x.shape[-1]


Made = tuple[str, Tensor]
"""An operation's name and the map that it made of the known images."""


class _Recording(Watching):
    """What each call makes, as it was when the next calls read it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Made] = []
        self._numbers: dict[int, int] = {}
        """By a map's id, which call made it last."""
        self._read: set[int] = set()
        """The ids of the maps that some call has read since."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_of_shapes(func):
            return func(*args, **kwargs)
        name, is_in_place = canonical(func)
        given = tensors_in((args, kwargs))
        number = self._numbers.get(id(given[0])) if is_in_place and given else None
        if number is not None and (id(given[0]) in self._read or name not in BY_PIXEL):
            self.made[number] = (self.made[number][0], given[0].clone())
        out = func(*args, **kwargs)
        self._read.update(id(tensor) for tensor in given if tensor is not out)
        if _is_map(out):
            if not any(tensor is out for tensor in given):
                self._read.discard(id(out))
            self._numbers[id(out)] = len(self.made)
            self.made.append((name, out))
        return out


class _Patching(Watching):
    """Computes each call on patches, as far as that goes."""

    def __init__(self, made: Sequence[Made]) -> None:
        super().__init__()
        self._made = iter(made)
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
        if _is_of_shapes(func):
            return func(*args, **kwargs)
        name, is_in_place = canonical(func)
        if not any(id(tensor) in self._meant for tensor in tensors_in((args, kwargs))):
            out = func(*args, **kwargs)
            self._next(name, out)
            return out
        told = changed(Call(name, func, each_tensor(args, self._meaning), each_tensor(kwargs, self._meaning)))
        if told is None:
            given = self.whole(args)
            out = func(*given, **self.whole(kwargs))
            self._next(name, out)
            if is_in_place:
                self._standing_for(args[0], given[0])
            return out
        inside, box = told
        patch = Patch(inside, box, self._next(name, inside))
        meaning = patch if box.area <= LARGEST_SHARE * patch.extent.area else patch.whole()
        if is_in_place:
            return self._standing_for(args[0], meaning)
        return self._standing_for(placeholder_for(patch.around), patch) if meaning is patch else meaning

    def _next(self, name: str, out: Any) -> Tensor:
        """What the call that comes now has made of the known images."""
        if not _is_map(out):
            return _NO_MAP
        made, around = next(self._made, ("nothing", _NO_MAP))
        if made != name:
            raise NearbyDiffers(f"the model called {name} where it had called {made} before")
        return around

    def _meaning(self, tensor: Tensor) -> Any:
        found = self._meant.get(id(tensor))
        return tensor if found is None else found[1]

    def _standing_for(self, tensor: Tensor, meaning: Patch | Tensor) -> Tensor:
        self._meant[id(tensor)] = tensor, meaning
        return tensor


_NO_MAP = torch.empty(0)


def _is_map(out: Any) -> bool:
    return isinstance(out, Tensor) and out.dim() == 4


def _is_of_shapes(function: Callable[..., Any]) -> bool:
    return getattr(function, "__name__", "") in OF_SHAPES


def _whole(meaning: Patch | Tensor) -> Tensor:
    return meaning.whole() if isinstance(meaning, Patch) else meaning
