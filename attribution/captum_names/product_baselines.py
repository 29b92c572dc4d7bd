"""Random baselines made of each feature's own list of values."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any


class ProductBaselines:
    """A callable that draws one value for each feature from that feature's list: a sample of the lists' product.

    A mapping gives named features; a tuple of names is one group, whose values are tuples drawn together. The draws come
    from Python's global generator, as Captum's do, so that random.seed rules.
    """

    def __init__(
        self, baseline_values: Sequence[Sequence[Any]] | Mapping[str | tuple[str, ...], Sequence[Any]]
    ) -> None:
        self.names = list(baseline_values) if isinstance(baseline_values, Mapping) else None
        values = baseline_values.values() if isinstance(baseline_values, Mapping) else baseline_values
        self.baseline_values = list(values)

    def sample(self) -> list[Any] | dict[str, Any]:
        """One value a feature, in order or by name."""
        drawn = [random.choice(values) for values in self.baseline_values]  # noqa: S311  # nothing secret about it
        if self.names is None:
            return drawn
        groups = [
            zip(key, value, strict=True) if isinstance(key, tuple) else [(key, value)]
            for key, value in zip(self.names, drawn, strict=True)
        ]
        return {name: value for group in groups for name, value in group}

    __call__ = sample
