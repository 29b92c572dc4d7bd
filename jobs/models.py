"""Models by name: `resnet50`, `resnet50:IMAGENET1K_V2`, `resnet50:/path.pt`, `resnet18:random`, `timm/NAME`, `package.module:function`."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import nn

from attribution.errors import LayerError
from attribution.hooks import Parts, Place, visiting
from jobs.preprocessing import Preprocessing
from jobs.zoo import own, sample
from jobs.zoo.entry import Built, ModelError

__all__ = ["Layer", "Loaded", "ModelError", "known_models", "layers", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model ready to be explained (evaluation mode, frozen), and what a run must record about it."""

    model: nn.Module
    preprocessing: Preprocessing
    name: str
    weights: str
    digest: str  # sha256 over names, types, shapes and values of the state
    class_names: tuple[str, ...] | None
    licence: str | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A place in a model that a layer method can name with `at`, and what a forward pass of one image does there."""

    name: str
    type: str
    parameter_count: int
    shape: tuple[int, ...] | None  # of one image's activation; None where the pass does not come by or yields no tensor
    calls: int  # a layer called several times needs another name to be credited


def load(name: str, *, trust_checkpoint: bool = False) -> Loaded:
    """The model called `name`; a checkpoint that needs pickle, which can run any code, only with `trust_checkpoint`."""
    built = _builder(name)(name, trust_checkpoint)
    model = built.model.eval().requires_grad_(requires_grad=False)
    return Loaded(
        model=model,
        preprocessing=built.preprocessing,
        name=name,
        weights=built.weights,
        digest=state_digest(model),
        class_names=built.class_names,
        licence=built.licence,
    )


def known_models() -> tuple[str, ...]:
    """The names that `load` knows of itself; timm's own list is longer (`timm.list_models()`) and comes with its prefix."""
    from jobs.zoo import torchvision_models

    return tuple(sorted((*torchvision_models.names(), sample.NAME)))


def layers(model: nn.Module, crop: tuple[int, int]) -> tuple[Layer, ...]:
    """Every named module in the order of definition, with its activation's shape for an image of `crop`."""
    seen: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    named = [(name, module) for name, module in model.named_modules() if name]
    device = next(model.parameters(), torch.empty(0)).device
    with ExitStack() as hooks, torch.no_grad(), suppress(LayerError):  # a layer that yields no tensor ends the pass
        for name, module in named:
            hooks.enter_context(visiting(Place(module), _noting(seen[name])))
        model(torch.zeros(1, 3, *crop, device=device))
    return tuple(
        Layer(
            name,
            type(module).__name__,
            sum(each.numel() for each in module.parameters()),
            seen[name][0] if seen[name] else None,
            len(seen[name]),
        )
        for name, module in named
    )


def _noting(shapes: list[tuple[int, ...]]) -> Callable[[Parts], None]:
    def note(parts: Parts) -> None:
        shapes.append(tuple(parts[0].shape[1:]))

    return note


def state_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _builder(name: str) -> Callable[[str, bool], Built]:
    """torchvision, which timm needs too, takes as long to import as torch: only where the name may be one of theirs."""
    architecture, _, variant = name.partition(":")
    is_function = variant.isidentifier() and all(part.isidentifier() for part in architecture.split("."))
    if architecture == sample.NAME:
        return sample.build
    if is_function and "." in architecture:
        return own.build
    if architecture.startswith("timm/"):
        from jobs.zoo import timm_models

        return timm_models.build
    from jobs.zoo import torchvision_models

    if architecture in torchvision_models.names():
        return torchvision_models.build
    if is_function:
        return own.build
    nearest = difflib.get_close_matches(architecture.lower(), known_models(), n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(nearest)}; " if nearest else ""
    raise ModelError(f"model {name!r} not found; {hint}see: cli.py models, or pass package.module:function")
