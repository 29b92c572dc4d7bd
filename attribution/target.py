"""Which number of the model's output is explained, for each image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribution.errors import TargetError


def select(output: Any, target: Tensor | None) -> Tensor:
    """One number per row of the model's output.

    output (N,) or (N, 1) with target None; (N, classes) with target (N,); (N, d1, ..., dk) with target (N, k).
    """
    if not isinstance(output, Tensor):
        raise TargetError(
            f"the model returns a {type(output).__name__}, not a tensor: say what to explain with --score package.module:function"
        )
    if target is None:
        if output.dim() > 1 and output[0].numel() != 1:
            raise TargetError(
                f"the model's output has shape {tuple(output.shape)} and no target was given: name a class"
            )
        return output.reshape(len(output))
    index = target.reshape(len(target), -1).unbind(1)
    if output.dim() < 1 + len(index) or output.shape[1 + len(index) :].numel() != 1:
        raise TargetError(f"a target of {len(index)} index(es) does not fit an output of shape {tuple(output.shape)}")
    return output[(torch.arange(len(output), device=output.device), *index)].reshape(len(output))


@dataclass(frozen=True, slots=True)
class Aim:
    """A target as a user says it: `predicted`, `label`, a class index, or `top2`, the class ranked second."""

    text: str

    def __post_init__(self) -> None:
        rank = self.text.removeprefix("top")
        is_rank = self.text.startswith("top") and rank.isdigit() and int(rank) > 0
        if not (self.text in ("predicted", "label") or is_rank or self.text.isdigit()):
            raise TargetError(
                f"target {self.text!r} not understood; use predicted, label, a class index, or top2, top3, ..."
            )

    @property
    def is_label(self) -> bool:
        """Whether it depends on the image's label, which may be missing."""
        return self.text == "label"

    def choose(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The class for each row; -1 where there is none, i.e. a label that is missing.  (N, classes), (N,) -> (N,)

        Whether the model has such a class, `check` says.
        """
        if self.text == "predicted":
            return logits.argmax(1)
        if self.text.startswith("top"):
            rank = int(self.text.removeprefix("top"))
            if rank > logits.shape[1]:
                raise TargetError(f"target {self.text!r} asks for more classes than the model's {logits.shape[1]}")
            return logits.topk(rank, dim=1).indices[:, -1]
        if self.is_label:
            return labels.to(logits.device)
        return torch.full((len(logits),), int(self.text), device=logits.device)

    def check(self, classes: int, labels: Tensor) -> None:
        """Refuse a class that the model lacks. Labels of the host are looked at without waiting for its device."""
        highest = int(labels.max()) if self.is_label else int(self.text) if self.text.isdigit() else 0
        if highest >= classes:
            raise TargetError(f"target {highest} is not one of the model's {classes} classes (0 to {classes - 1})")
