"""What one pass over an image shows of a model: what makes and what reads each tensor, for steps that change what lies between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attribution.calls import canonical, tensors_in
from attribution.hooks import Place, following, visiting

RECTIFIERS = frozenset({nn.ReLU, nn.ReLU6, nn.Hardtanh})
"""What can write its result over its input: their derivatives can be read from the result."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """An operation by its name, the tensors that it reads, and those that it makes or writes."""

    name: str
    read: list[Tensor]
    made: list[Tensor]


class Seen(TorchFunctionMode):
    """One pass over one image: what makes and what reads each tensor, by its id, and what goes in or comes out of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.makers: defaultdict[int, list[str]] = defaultdict(list)
        """What made the tensor, and what has written into it since."""
        self.uses: defaultdict[int, list[Use]] = defaultdict(list)
        """All that read the tensor, in order, also before it was written to; they hold it, so that its id is not used again."""
        self.named: set[int] = set()
        """What goes in or comes out of the modules that the run credits or explains."""
        self.inputs: defaultdict[str, list[Tensor]] = defaultdict(list)
        """Of norms, rectifiers and convolutions, of all their calls."""
        self.outputs: defaultdict[str, list[Tensor]] = defaultdict(list)
        """Of paddings, convolutions and norms."""

    @classmethod
    def passing(cls, model: nn.Module, example: Tensor, named: Collection[str] = ()) -> Seen:
        """What is seen of a pass over the first image.  named: modules that the run credits or explains"""
        seen, held = cls(), list[Tensor]()
        with torch.no_grad(), ExitStack() as hooks:
            for name, module in model.named_modules():
                is_norm = is_plain_norm(module)
                is_convolution = isinstance(module, nn.Conv2d) and isinstance(module.weight, nn.Parameter)
                if type(module) in RECTIFIERS or is_norm or is_convolution:
                    hooks.enter_context(visiting(Place(module, at_input=True), seen.inputs[name].extend))
                if type(module) is nn.ZeroPad2d or is_norm or is_convolution:
                    hooks.enter_context(visiting(Place(module), seen.outputs[name].extend))
            looked_at = [model.get_submodule(name) for name in named]

            def leave(module: nn.Module, arguments: Any, output: Any) -> None:
                if any(module is one for one in looked_at):
                    held.extend(tensors_in((arguments, output)))

            hooks.enter_context(following(lambda _module: None, leave))
            with seen:
                model(example[:1])
        seen.named.update(map(id, held))
        return seen

    def readers(self, of: int) -> list[Use]:
        """What has read the tensor of this id since it was written last: writing in place ends what came before."""
        uses = self.uses[of]
        writing = [number for number, use in enumerate(uses) if any(id(tensor) == of for tensor in use.made)]
        return uses[writing[-1] + 1 :] if writing else uses

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        use = Use(canonical(func)[0], tensors_in((args, kwargs or {})), [])
        for tensor in use.read:
            self.uses[id(tensor)].append(use)
        result = func(*args, **(kwargs or {}))
        use.made.extend(tensors_in(result))
        for tensor in use.made:
            self.makers[id(tensor)].append(use.name)
        return result


def is_plain_norm(module: nn.Module) -> bool:
    """A subclass may do more than normalise, e.g. timm's BatchNormAct2d."""
    return type(module) is nn.BatchNorm2d and module.track_running_stats
