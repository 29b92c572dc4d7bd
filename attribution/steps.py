"""The steps of a preparation: what can be written in another way so that it computes the same faster, and where.

A step changes modules in place and leaves their names. Where it applies is read from one pass over an example; whether it
computes the same is for `prepare` to verify.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from attribution.calls import canonical, tensors_in
from attribution.clamp import InPlaceHardtanh
from attribution.hooks import Place, visiting

Pair = tuple[str, str]
"""The names of two modules, of which the second reads what the first makes."""

RECTIFIERS = frozenset({nn.ReLU, nn.ReLU6, nn.Hardtanh})
"""What can write its result over its input: their derivatives can be read from the result."""

FORGETFUL = frozenset({"conv1d", "conv2d", "conv3d", "linear", "batch_norm", "add"})
"""Operations whose derivatives don't need their result."""


def channels_last(model: nn.Module) -> nn.Module:
    """Lay the weights out as convolutions read them fastest; activations follow."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def with_norms_folded(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """Each of these BatchNorms folded into the convolution before it."""
    for convolution_name, norm_name in pairs:
        convolution, norm = model.get_submodule(convolution_name), model.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        dtype = convolution.weight.dtype
        convolution.double()
        norm.double()  # each weight is rounded once
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.to(dtype)
        _replace(model, norm_name, nn.Identity())
    return model.eval().requires_grad_(requires_grad=False)


def with_padding_folded(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """Each of these paddings done by the convolution behind it, which need not copy the image for it.

    A convolution pads both sides alike. Where the wider side is w and the other narrower by k, its kernel grows by k zeros on
    the side where it would meet too much.
    """
    for pad_name, convolution_name in pairs:
        pad, convolution = model.get_submodule(pad_name), model.get_submodule(convolution_name)
        assert isinstance(convolution, nn.Conv2d)
        left, right, top, bottom = _sides(pad)
        zeros = (*_lacking(left, right), *_lacking(top, bottom))
        if any(zeros):
            wider = functional.pad(convolution.weight, zeros).contiguous(memory_format=_layout(convolution.weight))
            convolution.weight = nn.Parameter(wider, requires_grad=False)
            convolution.kernel_size = tuple(wider.shape[-2:])
        convolution.padding = (max(top, bottom), max(left, right))
        _replace(model, pad_name, nn.Identity())
    return model


def with_rectifiers_in_place(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """These rectifiers write over what they read: half the memory, and a third less of it moved."""
    for name in names:
        rectifier = model.get_submodule(name)
        if isinstance(rectifier, nn.Hardtanh):
            ours = InPlaceHardtanh(rectifier.min_val, rectifier.max_val, is_read_once=not rectifier.inplace)
            _replace(model, name, ours)
        else:
            assert isinstance(rectifier, nn.ReLU)
            rectifier.inplace = True
    return model


def convolutions_before_norms(model: nn.Module, seen: Seen) -> list[Pair]:
    """The pairs (convolution, BatchNorm) where each is called once and the norm's input is the convolution's output."""
    made_by = {
        id(outputs[0]): name
        for name, outputs in seen.outputs.items()
        if isinstance(model.get_submodule(name), nn.Conv2d) and len(outputs) == 1
    }
    return [
        (made_by[id(inputs[0])], name)
        for name, inputs in seen.inputs.items()
        if is_plain_norm(model.get_submodule(name)) and len(inputs) == 1 and id(inputs[0]) in made_by
    ]


def is_plain_norm(module: nn.Module) -> bool:
    """A subclass may do more than normalise, e.g. timm's BatchNormAct2d."""
    return type(module) is nn.BatchNorm2d and module.track_running_stats


def pads_before_convolutions(model: nn.Module, seen: Seen) -> list[Pair]:
    """The pairs (ZeroPad2d, Conv2d) where each is called once and nothing else reads the padded image.

    Sides that differ are left to depthwise convolutions: the zeros that they add to a kernel cost others more than the copy.
    """
    convolutions = {
        id(module.weight): (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }
    pairs = []
    for name, module in model.named_modules():
        if type(module) is not nn.ZeroPad2d or len(seen.outputs[name]) != 1:
            continue
        readers = seen.readers[id(seen.outputs[name][0])]
        weights = [id(t) for reader in readers for t in reader.tensors if id(t) in convolutions]
        if [reader.name for reader in readers] != ["conv2d"] or len(weights) != 1 or len(seen.readers[weights[0]]) != 1:
            continue
        convolution_name, convolution = convolutions[weights[0]]
        left, right, top, bottom = sides = _sides(module)
        is_even = left == right and top == bottom
        is_depthwise = convolution.groups == convolution.in_channels > 1 and tuple(convolution.dilation) == (1, 1)
        if min(sides) >= 0 and _pads_nothing(convolution) and (is_even or is_depthwise):
            pairs.append((name, convolution_name))
    return pairs


def rectifiers_to_write_in_place(model: nn.Module, seen: Seen) -> list[str]:
    """Those of which every input is made by an operation that can forget it, and read by nothing else; and hardtanh that does already."""

    def can_go(t: Tensor) -> bool:
        readers = [call.name for call in seen.readers[id(t)]]
        return seen.makers.get(id(t)) in FORGETFUL and readers in (["relu"], ["hardtanh"])

    def pays(name: str, module: nn.Module) -> bool:
        if type(module) not in RECTIFIERS or not seen.inputs[name]:
            return False
        if module.inplace:
            return isinstance(module, nn.Hardtanh)
        return all(map(can_go, seen.inputs[name]))

    return [name for name, module in model.named_modules() if pays(name, module)]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    name: str
    tensors: list[Tensor]


class Seen(TorchFunctionMode):
    """One pass over one image: what makes and what reads each tensor, by its id, and what goes in or comes out of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.makers: dict[int, str] = {}
        self.readers: defaultdict[int, list[_Call]] = defaultdict(list)
        """Since the tensor was written last; they hold it, so that its id is not used again."""
        self.inputs: defaultdict[str, list[Tensor]] = defaultdict(list)
        """Of norms and rectifiers, of all their calls."""
        self.outputs: defaultdict[str, list[Tensor]] = defaultdict(list)
        """Of paddings and convolutions."""

    @classmethod
    def passing(cls, model: nn.Module, example: Tensor) -> Seen:
        """What is seen of a pass over the first image."""
        seen = cls()
        with torch.no_grad(), ExitStack() as hooks:
            for name, module in model.named_modules():
                if type(module) in RECTIFIERS or is_plain_norm(module):
                    hooks.enter_context(visiting(Place(module, at_input=True), seen.inputs[name].extend))
                elif type(module) is nn.ZeroPad2d or (
                    isinstance(module, nn.Conv2d) and isinstance(module.weight, nn.Parameter)
                ):
                    hooks.enter_context(visiting(Place(module), seen.outputs[name].extend))
            with seen:
                model(example[:1])
        return seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = _Call(canonical(func)[0], tensors_in((args, kwargs or {})))
        for tensor in call.tensors:
            self.readers[id(tensor)].append(call)
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if any(tensor is one for one in call.tensors):  # written in place, which ends what came before
                self.readers[id(tensor)] = []
            self.makers[id(tensor)] = call.name
        return result


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module.eval())


def _sides(pad: nn.Module) -> tuple[int, int, int, int]:
    assert isinstance(pad, nn.ZeroPad2d)
    left, right, top, bottom = pad.padding
    return left, right, top, bottom


def _lacking(before: int, after: int) -> tuple[int, int]:
    """The zeros that a kernel needs before and behind it where both sides are padded like the wider one."""
    return max(after - before, 0), max(before - after, 0)


def _pads_nothing(convolution: nn.Conv2d) -> bool:
    return convolution.padding_mode == "zeros" and convolution.padding in ((0, 0), "valid")


def _layout(weight: Tensor) -> torch.memory_format:
    is_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format
