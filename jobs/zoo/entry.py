"""What each kind of model hands to `jobs.models.load`."""

from dataclasses import dataclass

from torch import nn

from jobs.preprocessing import Preprocessing


class ModelError(ValueError):
    """The model can't be had as named; the message says what to pass instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A model with its weights in place, before it is frozen."""

    model: nn.Module
    preprocessing: Preprocessing
    weights: str
    class_names: tuple[str, ...] | None = None
    licence: str | None = None
