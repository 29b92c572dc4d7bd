"""What a user of the engine can do wrong; every message names the value and the way out."""

import difflib
from collections.abc import Iterable


class AttributionError(ValueError):
    """The base of everything here that the caller can put right."""


class ExpressionError(AttributionError):
    """A method expression that does not parse, or names something unknown."""


class LayerError(AttributionError):
    """A layer that is missing, not reached, reached several times, or of a form that can't be credited."""


class TargetError(AttributionError):
    """A target that does not select one number per image."""


class ModelError(AttributionError):
    """A model that can't be explained as it is, e.g. in training mode."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names most like `name`, for an error message: "nearest: a, b"."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4) or known[:count]
    return f"nearest: {', '.join(close)}"
