"""A mode that sees the calls of a pass, and looks away while the engine makes calls of its own in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.overrides import TorchFunctionMode


class Watching(TorchFunctionMode):
    """What is called while it is aside is no part of the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aside = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Calls of the engine's own."""
        self.is_aside = True
        try:
            yield
        finally:
            self.is_aside = False
