"""The steps of a preparation: what can be written in another way so that it computes the same faster, and where.

A step changes modules in place and leaves their names. Where it applies is read from one pass over an example; whether it
computes the same is for `prepare` to verify.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attribution.clamp import InPlaceHardtanh
from attribution.deferred import ENDS, SUM, Convolution
from attribution.geometry import Ends
from attribution.phases import FEW
from attribution.pooling import MaxPool
from attribution.seen import RECTIFIERS, Seen, Use, is_plain_norm

Pair = tuple[str, str]
"""The names of two modules, of which the second reads what the first makes."""


class Owned(NamedTuple):
    """A convolution to be one of ours: its name, that of the rectifier that it does, and what it waits for otherwise."""

    name: str
    rectifier: str | None
    awaits: tuple[str, ...]


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


def with_own_convolutions(model: nn.Module, places: Sequence[Owned], pools: Sequence[str] = ()) -> nn.Module:
    """Each of these convolutions as one of ours, which does what the rectifier behind it would do, or waits for what comes.

    And these max-pools.
    """
    rectifiers = {each.rectifier: model.get_submodule(each.rectifier) for each in places if each.rectifier is not None}
    for name, rectifier, awaits in places:
        convolution = model.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        ends = None if rectifier is None else _ends(rectifiers[rectifier])
        _replace(model, name, Convolution.of(convolution, ends, awaits))
    for name in rectifiers:
        _replace(model, name, nn.Identity())
    for name in pools:
        pool = model.get_submodule(name)
        assert isinstance(pool, nn.MaxPool2d)
        _replace(model, name, MaxPool.of(pool))
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


def pads_before_convolutions(model: nn.Module, seen: Seen) -> list[Pair]:
    """The pairs (ZeroPad2d, Conv2d) where each is called once and nothing else reads the padded image.

    Sides that differ are left to convolutions that are depthwise or of few channels: the zeros that they add to a kernel cost
    others more than the copy.
    """
    convolutions = {
        id(module.weight): (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }
    pairs = []
    for name, module in model.named_modules():
        if type(module) is not nn.ZeroPad2d or len(seen.outputs[name]) != 1:
            continue
        readers = seen.readers(id(seen.outputs[name][0]))
        weights = [id(t) for reader in readers for t in reader.read if id(t) in convolutions]
        if [reader.name for reader in readers] != ["conv2d"] or len(weights) != 1 or len(seen.readers(weights[0])) != 1:
            continue
        convolution_name, convolution = convolutions[weights[0]]
        left, right, top, bottom = sides = _sides(module)
        is_even = left == right and top == bottom
        is_small = convolution.groups == convolution.in_channels > 1 or convolution.in_channels <= FEW
        can_grow = is_small and tuple(convolution.dilation) == (1, 1)
        if min(sides) >= 0 and _pads_nothing(convolution) and (is_even or can_grow):
            pairs.append((name, convolution_name))
    return pairs


def rectifiers_to_write_in_place(model: nn.Module, seen: Seen) -> list[str]:
    """Those of which every input is made by an operation that can forget it, and read by nothing else; and hardtanh that does already."""

    def can_go(t: Tensor) -> bool:
        makers, readers = seen.makers[id(t)], [use.name for use in seen.readers(id(t))]
        return bool(makers) and makers[-1] in FORGETFUL and readers in (["relu"], ["hardtanh"])

    def pays(name: str, module: nn.Module) -> bool:
        if type(module) not in RECTIFIERS or not seen.inputs[name]:
            return False
        if module.inplace:
            return isinstance(module, nn.Hardtanh)
        return all(map(can_go, seen.inputs[name]))

    return [name for name, module in model.named_modules() if pays(name, module)]


def convolutions_to_own(
    model: nn.Module, seen: Seen, pads: Sequence[Pair], norms: Sequence[Pair], named: Collection[str]
) -> list[Owned]:
    """Plain convolutions that are not named, each with its rectifier where such convolutions are all that this is called for.

    `pads` and `norms` are folded into them.
    """
    padded, normed = {convolution: pad for pad, convolution in pads}, dict(norms)
    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and _is_nothing_else(module, seen, name, padded.get(name))
        and name not in named
    ]
    outputs = {name: seen.outputs[normed.get(name, name)][0] for name in plain}
    makers = {id(output): name for name, output in outputs.items()}
    rectified = dict[str, str]()
    for name, module in model.named_modules():
        given = seen.inputs[name] if type(module) in RECTIFIERS and name not in named else []
        if all(id(t) in makers and _is_read_once(t, seen, is_overwritten=module.inplace) for t in given):
            rectified |= {makers[id(t)]: name for t in given}
    return [
        Owned(name, rectified.get(name), () if name in rectified else _awaited(outputs[name], seen)) for name in plain
    ]


def _awaited(t: Tensor, seen: Seen) -> tuple[str, ...]:
    """The sum and the rectifier that come next, as far as nobody else reads what lies before them."""
    names, at = list[str](), 0
    while id(t) not in seen.named and at < len(seen.uses[id(t)]):
        use, is_read_again = seen.uses[id(t)][at], at + 1 < len(seen.uses[id(t)])
        is_sum = use.name == SUM and not names and _adds_its_like(use, t)
        if not (is_sum or use.name in ENDS):
            break
        is_in_place = use.made[0] is t
        if is_read_again and not is_in_place:
            break
        names.append(use.name)
        if not is_sum:
            break
        t, at = (t, at + 1) if is_in_place else (use.made[0], 0)
    return tuple(names)


def _adds_its_like(use: Use, t: Tensor) -> bool:
    """Whether another tensor of this one's shape is added to it."""
    return len(use.read) == 2 and use.read[0] is t and use.read[1] is not t and use.read[1].shape == t.shape


def pools_to_own(model: nn.Module, named: Collection[str]) -> list[str]:
    """Max-pools that are not named and give no places; a subclass may do more."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.MaxPool2d and not module.return_indices and name not in named
    ]


def _is_nothing_else(convolution: nn.Conv2d, seen: Seen, name: str, pad: str | None) -> bool:
    """Whether it is called once, and what comes in, padded perhaps, is convolved and comes out: a subclass may do more."""
    if len(seen.outputs[name]) != 1 or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        return False
    uses = seen.readers(id(convolution.weight))
    read = seen.inputs[name][0] if pad is None else seen.outputs[pad][0]
    if [use.name for use in uses] != ["conv2d"]:
        return False
    return uses[0].read[0] is read and uses[0].made[0] is seen.outputs[name][0]


def _is_read_once(t: Tensor, seen: Seen, *, is_overwritten: bool) -> bool:
    """Whether a rectifier alone reads what one operation has made."""
    if is_overwritten:  # whoever has read it before that would show when the outputs are compared
        return len(seen.makers[id(t)]) == 2
    return len(seen.makers[id(t)]) == len(seen.readers(id(t))) == 1


def _ends(rectifier: nn.Module) -> Ends:
    return (rectifier.min_val, rectifier.max_val) if isinstance(rectifier, nn.Hardtanh) else (0, inf)


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
