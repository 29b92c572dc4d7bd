"""Randomness as a function of identity: the same (seed, image key, draw) gives the same numbers, whatever its batch mates."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of, per_row, sent
from attribution.errors import AttributionError

Stdev = float | str | tuple[float, ...]
"""A standard deviation in normalised units, one for each input, or a share of each image's own range: "0.15r"."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of some images. Every call names its draw; equal names give equal numbers."""

    seed: int
    keys: tuple[str, ...]
    path: str = ""

    def within(self, draw: int | str) -> "Draws":
        """The draws inside draw `draw` of an outer loop, e.g. of a noise tunnel around a stochastic method."""
        return replace(self, path=f"{self.path}/{draw}")

    def rows(self, index: Tensor) -> "Draws":
        """The draws of those images only."""
        return replace(self, keys=tuple(self.keys[i] for i in index.tolist()))

    def normal(self, like: Features, draw: int) -> Features:
        """Standard normal numbers of the shape, dtype and device of `like`.  (N, ...)"""
        return self._rows("normal", like, draw, lambda row, generator: row.normal_(generator=generator))

    def box(self, like: Features, draw: int) -> Features:
        """Numbers in [-1, 1) of the shape, dtype and device of `like`.  (N, ...)"""
        return self._rows("box", like, draw, lambda row, generator: row.uniform_(-1, 1, generator=generator))

    def uniform(self, draw: int, like: Tensor) -> Tensor:
        """One number in [0, 1) per image, in the dtype and on the device of `like`.  (N,)"""
        numbers = torch.empty(len(self.keys), dtype=torch.float64)
        for number, generator in zip(numbers.unbind(), self._generators("uniform", draw), strict=True):
            number.uniform_(generator=generator)
        return sent(numbers, like.device).to(like)

    def integers(self, high: int, draw: int) -> Tensor:
        """One integer in [0, high) per image, on the CPU.  (N,)"""
        numbers = torch.empty(len(self.keys), dtype=torch.int64)
        for number, generator in zip(numbers.unbind(), self._generators("integer", draw), strict=True):
            number.random_(0, high, generator=generator)
        return numbers

    def table(self, counts: Tensor, draw: int) -> Tensor:
        """`counts[i]` numbers in [0, 1) for image i, and 2 behind them, on the CPU.  (N,) -> (N, max count)"""
        table = torch.full((len(self.keys), int(counts.max())), 2.0)
        for row, generator, count in zip(table, self._generators("table", draw), counts.tolist(), strict=True):
            row[:count] = torch.rand(count, generator=generator)
        return table

    def generator(self, key: str, kind: str, draw: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator of its own for one image, kind of number and draw."""
        return torch.Generator(device).manual_seed(self._seed(key, kind, draw))

    def _seed(self, key: str, kind: str, draw: int) -> int:
        identity = f"{self.seed}\0{key}\0{self.path}\0{kind}\0{draw}".encode()
        return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little") >> 1

    def _generators(self, kind: str, draw: int, device: torch.device | str = "cpu") -> Iterator[torch.Generator]:
        """Each image's generator in turn: one, seeded anew, which takes half as long as another one."""
        generator = torch.Generator(device)
        for key in self.keys:
            yield generator.manual_seed(self._seed(key, kind, draw))

    def _rows(
        self, kind: str, like: Features, draw: int, fill: Callable[[Tensor, torch.Generator], Tensor]
    ) -> Features:
        filled = []
        for number, part in enumerate(parts_of(like)):
            numbers = torch.empty_like(part, memory_format=torch.contiguous_format)
            generators = self._generators(f"{kind}{number}", draw, part.device)
            for row, generator in zip(numbers.unbind(), generators, strict=True):
                fill(row, generator)
            filled.append(numbers)
        return bundled(filled)


def noisy(x: Features, stdev: Stdev, draws: Draws, draw: int) -> Features:
    """X with normal noise of its own for each image and draw."""
    check_stdev(stdev)
    parts = parts_of(x)
    stdevs = stdev if isinstance(stdev, tuple) else (stdev,) * len(parts)
    noise = parts_of(draws.normal(x, draw))
    return bundled([_with(added, s, part) for part, s, added in zip(parts, stdevs, noise, strict=True)])


def check_stdev(stdev: Stdev) -> None:
    """Refuse what is neither numbers nor a share of the range."""
    if isinstance(stdev, str) and not re.fullmatch(r"\d*\.?\d+r", stdev):
        raise AttributionError(
            f"stdev {stdev!r} not understood; use a number in normalised units, or a share of the range like '0.15r'"
        )


def _with(noise: Tensor, stdev: float | str, part: Tensor) -> Tensor:
    if not isinstance(stdev, str):
        return torch.add(part, noise, alpha=stdev)
    flat = part.flatten(1)
    return torch.addcmul(part, per_row(float(stdev.removesuffix("r")) * (flat.amax(1) - flat.amin(1)), part), noise)
