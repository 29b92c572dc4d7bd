"""What is explained: a function of the images that gives one number per row."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attribution.bundle import Features, parts_of
from attribution.errors import LayerError, ModelError, TargetError
from attribution.hooks import Parts, Place
from attribution.passes import Rows
from attribution.tap import Tap
from attribution.target import Aim, select

Pick = Callable[[Parts], Tensor]
"""From a layer's tensors to the one neuron that is meant, per row.  (n, *features) -> (n,)"""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Score:
    """The model's output at each row's target, or whatever `read` makes of the output."""

    model: Callable[..., Any]
    target: Tensor | None = None
    arguments: tuple[Any, ...] = ()
    """What else the model is called with; tensors among them are cut into rows like x."""
    read: Callable[[Any], Tensor] | None = None
    dtype: torch.dtype | None = None
    """What the model computes in; None leaves x as it is. Gradients come back in x's own precision."""

    def __call__(self, x: Features) -> Tensor:
        """X (n, ...) -> (n,)"""
        return self.of(self.output(x))

    def output(self, x: Features) -> Any:
        """The model's whole output."""
        parts = parts_of(x)
        if self.dtype is not None:
            parts = tuple(part.to(self.dtype) if part.is_floating_point() else part for part in parts)
        return self.model(*parts, *self.arguments)

    def of(self, output: Any) -> Tensor:
        """The number that is explained, from the model's output.  -> (n,)"""
        return self.read(output) if self.read is not None else select(output, self.target)

    @property
    def key(self) -> Hashable:
        """What it depends on beside x and its tensors; None where arguments of the caller's come in too."""
        return None if self.arguments else (type(self), self.model, self.read, self.dtype)

    @property
    def has_rows_of_arguments(self) -> bool:
        """Whether arguments of the caller's, too, differ from row to row."""
        return any(isinstance(argument, Tensor) and argument.dim() for argument in self.arguments)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What of it has a row for each row of x."""
        return () if self.target is None else (self.target,)

    def having(self, *tensors: Tensor) -> Score:
        """The same score with other tensors of these."""
        return replace(self, target=tensors[0]) if tensors else self

    def computed_by(self, model: Callable[..., Any] | None) -> Score:
        """The same score by another form of the same model, where there is one."""
        return self if model is None else replace(self, model=model)

    def settled(self, output: Any) -> Score:  # noqa: ARG002  # see Aiming
        """This score, whatever a pass over its rows has put out."""
        return self

    def aimed(self, target: Tensor | None) -> Score:
        """The same model explained at another target."""
        return replace(self, target=target)

    def of_one(self, x: Features) -> Tensor:
        """The score of one image at each row's target, from a single row.  x (1, ...) -> (targets,), or (1,) without them"""
        output = self.output(x)
        return self.of(output if self.target is None else output.expand(len(self.target), *output.shape[1:]))

    def rows(self, rows: Rows) -> Score:
        """The score of those rows only."""
        if self.target is None and not self.arguments:
            return self
        arguments = tuple(_cut(argument, rows) for argument in self.arguments)
        return replace(self, target=None if self.target is None else self.target[rows], arguments=arguments)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Aiming(Score):
    """A score whose target is chosen from the very output that it reads: the pass that explains also predicts."""

    aim: Aim
    labels: Tensor

    @property
    def key(self) -> Hashable:
        """The aim too."""
        return None if self.arguments else (type(self), self.model, self.aim, self.dtype)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The labels, where they are the target."""
        return (self.labels,) if self.aim.is_label else ()

    def having(self, *tensors: Tensor) -> Aiming:
        """The same for other labels."""
        return replace(self, labels=tensors[0]) if tensors else self

    def settled(self, output: Any) -> Score:
        """The model's score at the target of each row; any class where there is none."""
        logits = logits_of(output).detach()
        target = self.aim.choose(logits, self.labels).clamp(0, logits.shape[1] - 1)
        return Score(model=self.model, target=target, arguments=self.arguments, dtype=self.dtype)

    def rows(self, rows: Rows) -> Aiming:
        """The score of those rows only."""
        return replace(self, labels=self.labels[rows])


def logits_of(output: object) -> Tensor:
    """The output of a classifier, (n, classes); an error of any other model."""
    if not isinstance(output, Tensor) or output.dim() != 2:
        form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TargetError(
            f"the model returns {form}, not (images, classes): say what to explain with --score package.module:function"
        )
    return output


def _cut(argument: Any, rows: Rows) -> Any:
    return argument[rows] if isinstance(argument, Tensor) and argument.dim() > 0 else argument


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NeuronScore(Score):
    """The activation of one neuron: the forward pass ends where it is reached."""

    place: Place
    pick: Pick

    def output(self, x: Features) -> Tensor:
        """The neuron, which is all there is to see of such a pass.  -> (n,)"""
        with Tap(self.place, ends=True) as tap:
            tap.run(lambda: super(NeuronScore, self).output(x))
        return self.pick(tap.parts)

    def computed_by(self, model: Callable[..., Any] | None) -> NeuronScore:  # noqa: ARG002  # hooks see the model as it is
        """This score."""
        return self

    @property
    def key(self) -> Hashable:
        """The neuron too."""
        return None if self.arguments else (type(self), self.model, self.place, self.pick, self.dtype)

    def of(self, output: Tensor) -> Tensor:
        """The neuron itself."""
        return output


def neuron(
    model: Callable[..., Any], layer: nn.Module | Place, index: tuple[int, ...] | Pick, arguments: tuple[Any, ...] = ()
) -> NeuronScore:
    """The score that is one neuron of a layer: `index` counts the layer's dimensions without the rows."""
    place = layer if isinstance(layer, Place) else Place(layer)
    return NeuronScore(model=model, place=place, pick=index if callable(index) else AtIndex(index), arguments=arguments)


@dataclass(frozen=True, slots=True)
class AtIndex:
    """Picks the neuron at `index` of a layer that has one tensor."""

    index: tuple[int, ...]

    def __call__(self, parts: Parts) -> Tensor:
        if len(parts) != 1:
            raise LayerError(f"the layer has {len(parts)} tensors: pick the neuron with a function of them")
        index, shape = self.index, tuple(parts[0].shape[1:])
        if len(index) != len(shape) or any(not -n <= i < n for i, n in zip(index, shape, strict=False)):
            raise LayerError(f"neuron {','.join(map(str, index))} does not exist in a layer of shape {shape}")
        return parts[0].movedim(0, -1)[index]


def refuse_training(model: Callable[..., Any]) -> None:
    """Refuse a model whose answers change from call to call or with the batch."""
    unstable = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # noqa: SLF001  # torch has no public name for them
    modules = [model] if isinstance(model, nn.Module) else []
    for module in modules:  # `model.modules()` names them all, which takes ten times as long
        modules += [inside for inside in module._modules.values() if inside is not None]  # noqa: SLF001  # as `children()`
    if any(module.training and isinstance(module, unstable) for module in modules):
        raise ModelError(
            "the model is in training mode, where its answers depend on the batch: call model.eval() first"
        )
