"""What stands for "nothing there": the images that attributions compare with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attribution.bundle import Features, bundled, cut, parts_of
from attribution.errors import ExpressionError, nearest
from attribution.images import Images
from attribution.noise import Draws
from attribution.passes import Rows


@dataclass(frozen=True, slots=True)
class Baselines:
    """Several references to draw from: each is like x, or one row for all images; or one tensor (K, ...) of whole images."""

    members: tuple[Features, ...]

    def __len__(self) -> int:
        return len(self.members)

    def pick(self, choice: Tensor, x: Features) -> Features:
        """For each image its chosen reference.  choice (N,) -> (N, ...)"""
        picked = []
        for number, part in enumerate(parts_of(x)):
            options = [parts_of(member)[number].expand_as(part) for member in self.members]
            rows = [options[k][row] for row, k in enumerate(choice.tolist())]
            picked.append(torch.stack(rows))
        return bundled(picked)

    def cut(self, rows: Rows) -> Baselines:
        """Those of some rows."""
        return Baselines(tuple(cut(member, rows) for member in self.members))

    @classmethod
    def of_rows(cls, rows: Features) -> Baselines:
        """Every row of a distribution as one reference.  (K, ...)"""
        return cls(tuple(rows[k : k + 1] for k in range(len(rows))))


@dataclass(frozen=True, slots=True)
class Reference:
    """One baseline as a user names it: `black`, `blur(10)`, `reference(n=32)`, `0.5`."""

    name: str
    number: float | None = None

    def __str__(self) -> str:
        if self.number is None or self.number == DEFAULT_NUMBERS.get(self.name):
            return self.name
        prefix = "n=" if self.name == "reference" else ""
        return f"{self.number:g}" if self.name == "constant" else f"{self.name}({prefix}{self.number:g})"

    def rows(self, images: Images, draws: Draws) -> tuple[Features, ...]:
        """The references themselves, each (N, C, H, W) or (1, C, H, W).

        One that stands for all images has stride 0 over them, so that it can be told from that of a single image.
        """
        rows = MAKERS[self.name](self, images, draws)
        return rows if self.name in PER_IMAGE else tuple(row.expand(2, *row.shape[1:])[:1] for row in rows)


def parse_baselines(text: str) -> tuple[Reference, ...]:
    """Read `black`, `black,zero`, `blur(10)`, `reference(n=32)`, `noise`, `mean`, `image`, or a number in normalised units."""
    return tuple(_parse_one(item.strip()) for item in re.split(r",(?![^(]*\))", text))


def make_baselines(references: Sequence[Reference], images: Images, draws: Draws) -> Baselines:
    """All named references of these images."""
    return Baselines(tuple(row for reference in references for row in reference.rows(images, draws)))


def reference_count(references: Sequence[Reference]) -> int:
    """How many references a text stands for, before any image is there."""
    return sum(int(reference.number or 1) if reference.name == "reference" else 1 for reference in references)


def _parse_one(item: str) -> Reference:
    try:
        return Reference("constant", float(item))
    except ValueError:
        pass
    match = re.fullmatch(r"(\w+)(?:\((?:(?:n|sigma)=)?([\d.]+)\))?", item)
    if match is None or match[1] not in MAKERS:
        raise ExpressionError(f"baseline {item!r} not found; {nearest(item, MAKERS)}, or a number")
    name, number = match[1], match[2]
    if number is not None and name not in DEFAULT_NUMBERS:
        raise ExpressionError(f"baseline {name!r} takes no number")
    return Reference(name, float(number) if number is not None else DEFAULT_NUMBERS.get(name))


def _level(level: float) -> Callable[[Reference, Images, Draws], tuple[Features, ...]]:
    def rows(_reference: Reference, images: Images, _draws: Draws) -> tuple[Features, ...]:
        colour = images.normalisation.normalised(level, images.pixels)  # (C, 1, 1)
        return (colour.expand_as(images.pixels[:1]),)

    return rows


def _constant(reference: Reference, images: Images, _draws: Draws) -> tuple[Features, ...]:
    return (torch.full_like(images.pixels[:1], reference.number or 0.0),)


def _blur(reference: Reference, images: Images, _draws: Draws) -> tuple[Features, ...]:
    return (gaussian_blur(images.pixels, reference.number or 0.0),)


def _noise(_reference: Reference, images: Images, draws: Draws) -> tuple[Features, ...]:
    """Uniform between black and white, per pixel, by the image's key."""
    low, high = (images.normalisation.normalised(level, images.pixels) for level in (0.0, 1.0))
    rows = [
        torch.rand(image.shape, generator=draws.generator(key, "baseline", 0, image.device), device=image.device).to(
            image
        )
        for image, key in zip(images.pixels, draws.keys, strict=True)
    ]
    return (low + (high - low) * torch.stack(rows),)


def _mean(_reference: Reference, images: Images, _draws: Draws) -> tuple[Features, ...]:
    if images.mean is None:
        raise ExpressionError("baseline 'mean' needs the data set's mean image: give Images(mean=...)")
    return (images.mean.to(images.pixels).unsqueeze(0),)


def _reference(reference: Reference, images: Images, _draws: Draws) -> tuple[Features, ...]:
    count = int(reference.number or 1)
    if images.references is None or len(images.references) < count:
        held = 0 if images.references is None else len(images.references)
        raise ExpressionError(
            f"baseline 'reference(n={count})' needs {count} reference images, there are {held}: give Images(references=...)"
        )
    return tuple(images.references[k : k + 1].to(images.pixels) for k in range(count))


MAKERS: dict[str, Callable[[Reference, Images, Draws], tuple[Features, ...]]] = {
    "zero": _constant,
    "constant": _constant,
    "black": _level(0.0),
    "white": _level(1.0),
    "blur": _blur,
    "mean": _mean,
    "noise": _noise,
    "reference": _reference,
    "image": lambda _reference, images, _draws: (images.pixels,),
}
PER_IMAGE = frozenset({"blur", "noise", "image"})
DEFAULT_NUMBERS = {"blur": 10.0, "reference": 32.0}
"""blur: standard deviation in pixels, enough to remove shapes at 224 px; reference: how many images."""


def gaussian_blur(pixels: Tensor, sigma: float) -> Tensor:
    """Each channel convolved with a Gaussian of `sigma` pixels, the image mirrored at its border.  (N, C, H, W)"""
    for dim in (2, 3):
        radius = min(math.ceil(3 * sigma), pixels.shape[dim] - 1)
        offsets = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2)) if sigma else (offsets == 0).to(pixels)
        kernel = kernel / kernel.sum()
        shape, padding = ((-1, 1), (0, 0, radius, radius)) if dim == 2 else ((1, -1), (radius, radius, 0, 0))
        weight = kernel.reshape(1, 1, *shape).expand(pixels.shape[1], 1, *shape)
        pixels = functional.conv2d(functional.pad(pixels, padding, mode="reflect"), weight, groups=pixels.shape[1])
    return pixels
