"""What a forward function answers when features are replaced: a number for each row, several, or some for all rows together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.captum_names import forms
from attribution.captum_names.errors import ArgumentError
from attribution.score import Score, refuse_training
from attribution.site import Input


@dataclass(frozen=True, eq=False)
class Asking:
    """A forward function at its target, asked for all rows at once."""

    forward: Callable[..., Any]
    inputs: forms.Inputs
    target: Tensor | None
    arguments: tuple[Any, ...]
    example: Tensor = field(init=False)
    """What it answers for the inputs themselves."""

    def __post_init__(self) -> None:
        refuse_training(self.forward)
        with torch.no_grad():
            object.__setattr__(self, "example", self(*self.inputs.parts))

    def __call__(self, *parts: Tensor) -> Tensor:
        """The output at the target; whole numbers as float64, which holds them exactly."""
        output = self.forward(*parts, *self.arguments)
        if isinstance(output, int | float):
            output = torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else torch.int64)
        if not isinstance(output, Tensor):
            raise ArgumentError(f"the forward function returns a {type(output).__name__}, not a tensor or a number")
        return self._at_target(output)

    def _at_target(self, output: Tensor) -> Tensor:
        if self.target is None:
            return output
        index = self.target.reshape(len(self.target), -1)
        if output.dim() <= index.shape[1]:
            raise ArgumentError(
                f"a target of {index.shape[1]} index(es) does not fit an output of shape {tuple(output.shape)}"
            )
        if len(output) != len(index):
            if bool((index != index[:1]).any()):
                raise ArgumentError(f"{len(index)} different targets for an output of {len(output)} rows")
            index = index[:1]
        return output[(torch.arange(len(output), device=output.device), *index.unbind(1))]

    @property
    def is_by_row(self) -> bool:
        """Whether each row has its own answers, or all rows together one set of them."""
        return self.example.dim() > 0 and len(self.example) == len(self.inputs)

    @property
    def columns(self) -> int:
        """How many answers each row has, or all rows have."""
        return self.example.numel() // (len(self.inputs) if self.is_by_row else 1)

    def sites(self, tick: Callable[[], None], *, packed: bool = False) -> Iterator[Input]:
        """A site for each answer. The forward function is called for the first one only; the others read what it said."""
        heard: list[Tensor] = []
        for column in range(self.columns):
            yield Input(Score(model=_Column(self, heard, column, packed, tick), dtype=self.inputs.half))

    def laid_out(self, columns: Sequence[Features], *, keeps_outputs: bool) -> Features:
        """The attributions of all answers.

        One after the other in dimension 0 (answers of one row stand together), or in the dimensions of the output.
        """
        shape = self.example.shape or (1,)
        parts = []
        for own in zip(*(parts_of(column) for column in columns), strict=True):
            stacked = torch.stack([part if self.is_by_row else part[:1] for part in own], 1)  # (N or 1, columns, ...)
            features = stacked.shape[2:]
            parts.append(stacked.reshape(*(shape if keeps_outputs else (-1,)), *features))
        return bundled(parts)


@dataclass(eq=False)
class _Column:
    """One of the answers, heard on the first column's calls and remembered for the others'."""

    asking: Asking
    heard: list[Tensor]
    column: int
    packed: bool
    tick: Callable[[], None]
    calls: int = 0

    def __call__(self, *parts: Tensor) -> Tensor:
        call, self.calls = self.calls, self.calls + 1
        if self.column == 0:
            output = self.asking(*(part[0] for part in parts) if self.packed else parts)
            output = output.reshape(len(parts[0]) if self.asking.is_by_row else 1, -1)
            self.heard.append(output if output.is_floating_point() else output.double())
            self.tick()
        return self.heard[call][:, self.column]


def packed(features: Features) -> Features:
    """All rows as one, for methods that draw for each row where all rows are answered together.  (1, N, ...)"""
    return bundled([part.unsqueeze(0) for part in parts_of(features)])


def unpacked(features: Features) -> Features:
    """The first row's credit, which is every row's.  (1, N, ...) -> (1, ...)"""
    return bundled([part[:, 0] for part in parts_of(features)])
