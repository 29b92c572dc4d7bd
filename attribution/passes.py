"""Cutting rows into passes of one fixed size: the only place that knows how many rows the model sees at once."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.graphs import Graphs

Rows = slice | Tensor
"""Which rows a pass takes: a slice, or an index (rows,) where the last pass is padded."""


@dataclass(slots=True)
class Passes:
    """Runs something over many rows, `rows_per_pass` at a time.

    Every pass has exactly that many rows, the last one padded with copies of its last row that nobody reads, so that
    float results of a row do not depend on how many others there are, and compiled graphs are used again. None means
    all rows in one pass. When the device's memory runs out, the pass is halved and goes on; `shrunk` then stays set.
    """

    rows_per_pass: int | None = None
    on_pass: Callable[[int], None] | None = None
    """Hears of each pass how many rows it had; what it raises ends the work."""
    shrunk: bool = field(default=False, init=False)
    warnings: list[str] = field(default_factory=list, init=False)
    """What the results of these passes can't promise, e.g. an operation that no rule covers."""
    graphs: Graphs | None = None
    """Where passes that come again are captured and replayed."""
    compiled: Callable[..., Any] | None = None
    """The model compiled, for passes that no hook looks into and no rule is lent to."""
    backward: Callable[[], AbstractContextManager[None]] = nullcontext
    """What plain gradients are taken under, e.g. a faster arithmetic; rules, which divide by small differences, are not."""

    def capturing(self, key: Hashable, *inputs: Features) -> Graphs | None:
        """The graphs, where a pass of this key and these inputs can be captured; a key of None is like no other."""
        can = key is not None and all(isinstance(part, Tensor) for part in inputs)
        return self.graphs if can else None

    def passed(self, count: int) -> None:
        """Say that so many rows have passed; `over` says it itself, at the end of each pass."""
        if self.on_pass is not None:
            self.on_pass(count)

    def over(self, count: int, one_pass: Callable[[Rows], Sequence[Features]]) -> tuple[Features, ...]:
        """Concatenate what `one_pass` returns for each pass over `count` rows."""
        done: list[Sequence[Features]] = []
        start = 0
        while start < count:
            size = self.rows_per_pass or count
            try:
                results = one_pass(_rows(start, size, count))
            except torch.cuda.OutOfMemoryError:
                if self.graphs is not None and self.graphs.clear():
                    continue
                if size == 1:
                    raise
                self.rows_per_pass, self.shrunk = (size + 1) // 2, True
                torch.cuda.empty_cache()
                continue
            kept = min(size, count - start)
            done.append([result if len(result) == kept else result[:kept] for result in results])
            start += size
            self.passed(kept)
        return tuple(joined(column) for column in zip(*done, strict=True))


def _rows(start: int, size: int, count: int) -> Rows:
    if start + size <= count:
        return slice(start, start + size)
    return torch.arange(start, start + size).clamp(max=count - 1)


def count_of(rows: Rows) -> int:
    """How many there are without padding."""
    first, last = (rows.start, rows.stop - 1) if isinstance(rows, slice) else (int(rows[0]), int(rows[-1]))
    return last - first + 1


def joined(pieces: Sequence[Features]) -> Features:
    """The pieces one below the other."""
    if len(pieces) == 1:
        return pieces[0]
    return bundled([torch.cat(column) for column in zip(*(parts_of(piece) for piece in pieces), strict=True)])
