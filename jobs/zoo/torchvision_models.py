"""torchvision's classification models with their own weights, a checkpoint of the user's, or random weights."""

import contextlib
import difflib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from jobs.preprocessing import Preprocessing
from jobs.torchvision_shim import torchvision
from jobs.zoo.checkpoint import fill, patient_and_safe, read_state, reason
from jobs.zoo.entry import Built, ModelError
from jobs.zoo.random_weights import build_seeded

_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])")
# Their builders take arguments that torchvision sets only together with its own weights.
_INCEPTIONS = {"googlenet", "inception_v3"}


def names() -> list[str]:
    listed: list[str] = torchvision.models.list_models(module=torchvision.models)
    return listed


def build(name: str, trust_checkpoint: bool) -> Built:
    architecture, _, variant = name.partition(":")
    weights = torchvision.models.get_model_weights(architecture)
    if variant == "random":
        return _random(architecture, weights.DEFAULT)
    if _is_path(variant):
        return _checkpoint(architecture, weights, variant, trust_checkpoint)
    if variant and variant not in weights.__members__:
        raise ModelError(_unknown_variant(architecture, variant, list(weights.__members__)))
    return _pretrained(architecture, weights[variant] if variant else weights.DEFAULT)


def preprocessing_of(weights: Any) -> Preprocessing:
    transform = weights.transforms()
    (crop,), (resize,) = transform.crop_size, transform.resize_size
    return Preprocessing(
        resize=resize,
        crop=(crop, crop),
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _pretrained(architecture: str, weights: Any) -> Built:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    try:
        with patient_and_safe(), contextlib.redirect_stdout(io.StringIO()):
            model = torchvision.models.get_model(architecture, weights=weights, progress=False)
    except Exception as error:
        if file.exists():
            raise ModelError(
                f"weights {file} can't be used ({reason(error)}); remove the file or pass {architecture}:/path"
            ) from error
        raise ModelError(
            f"weights {weights.name} of {architecture} are not on this machine and can't be fetched from {weights.url} ({reason(error)}); "
            f"put the file at {file}, or pass --model {architecture}:/path/to/weights.pth, or {architecture}:random for a trial"
        ) from error
    return Built(
        model=model,
        preprocessing=preprocessing_of(weights),
        weights=f"torchvision {weights}",
        class_names=tuple(weights.meta["categories"]),
        licence=weights.meta.get("license"),
    )


def _checkpoint(architecture: str, kinds: Any, path: str, trust_checkpoint: bool) -> Built:
    """The user's weights in this architecture, with the preprocessing of its default weights and as many classes as they have.

    A file of torchvision's own, known by its name, keeps the preprocessing that belongs to it.
    """
    state = _modern_names(read_state(path, trust_checkpoint=trust_checkpoint), architecture)
    weights = next((each for each in kinds if Path(each.url).name == Path(path).name), kinds.DEFAULT)
    categories = tuple(weights.meta["categories"])
    model = _shaped_like(state, architecture, len(categories))
    fill(model, state, f"checkpoint {path}")
    return Built(
        model=model,
        preprocessing=preprocessing_of(weights),
        weights=f"checkpoint {Path(path).name}",
        class_names=categories if _class_count(model) == len(categories) else None,
    )


def _random(architecture: str, weights: Any) -> Built:
    preprocessing = preprocessing_of(weights)
    arguments = {"init_weights": True} if architecture in _INCEPTIONS else {}
    return Built(
        model=build_seeded(
            lambda: torchvision.models.get_model(architecture, weights=None, **arguments),
            architecture,
            preprocessing.crop,
        ),
        preprocessing=preprocessing,
        weights="random",
        class_names=tuple(weights.meta["categories"]),
    )


def _shaped_like(state: Mapping[str, Tensor], architecture: str, class_count: int) -> nn.Module:
    arguments: dict[str, Any] = {}
    if architecture in _INCEPTIONS:
        has_aux = any(name.lower().startswith("aux") for name in state)
        arguments = {"init_weights": False, "transform_input": True, "aux_logits": has_aux}
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, **arguments)
    head = list(model.state_dict())[-1]
    if head in state and state[head].ndim and state[head].shape[0] != class_count:
        model = torchvision.models.get_model(architecture, weights=None, num_classes=state[head].shape[0], **arguments)
    return model


def _modern_names(state: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """DenseNet's published files say `norm.1` where its modules have been called `norm1` since torchvision 0.3."""
    if not architecture.startswith("densenet"):
        return state
    return {_DENSE_LAYER.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def _class_count(model: nn.Module) -> int:
    """By the last parameter: all of torchvision's classification models define their classifier last."""
    head: Tensor = list(model.state_dict().values())[-1]
    return head.shape[0]


def _is_path(variant: str) -> bool:
    return "/" in variant or Path(variant).suffix in {".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors"}


def _unknown_variant(architecture: str, variant: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(variant.upper(), known, n=1, cutoff=0.3) or known
    return (
        f"weights {variant!r} of {architecture} not found; nearest: {nearest[0]} (known: {', '.join(known)}, random, "
        "or the path of a checkpoint, with a slash)"
    )
