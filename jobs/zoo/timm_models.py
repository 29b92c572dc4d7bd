"""timm's models, `timm/NAME` or `timm/NAME.tag`, with the preprocessing that their own configuration gives."""

import contextlib
import difflib
import importlib
import io
import math
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from torch import nn

from jobs import torchvision_shim  # noqa: F401  # timm imports torchvision
from jobs.indexing.imagenet_classes import class_names
from jobs.preprocessing import Preprocessing
from jobs.zoo.checkpoint import fill, patient_and_safe, read_state, reason
from jobs.zoo.entry import Built, ModelError
from jobs.zoo.random_weights import build_seeded

_DEFAULT_CROP_FRACTION = 0.875  # timm's own, where a configuration has none


def build(name: str, trust_checkpoint: bool) -> Built:
    """`timm/NAME[.tag]`, `timm/NAME:/path` or `timm/NAME:random`."""
    timm = _package()
    architecture, _, variant = name.removeprefix("timm/").partition(":")
    if not timm.is_model(architecture.partition(".")[0]):
        raise ModelError(_unknown(architecture, timm.list_models()))
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(architecture).to_dict())
    if variant == "random":
        model = build_seeded(lambda: timm.create_model(architecture), architecture, tuple(config["input_size"][1:]))
        weights = "random"
    elif variant:
        model = timm.create_model(architecture)
        fill(model, read_state(variant, trust_checkpoint=trust_checkpoint), f"checkpoint {variant}")
        weights = f"checkpoint {variant.rpartition('/')[2]}"
    else:
        model = _pretrained(timm, architecture)
        weights = f"timm {timm.get_pretrained_cfg(architecture).hf_hub_id or architecture}"
    return Built(
        model=model,
        preprocessing=preprocessing_of(config),
        weights=weights,
        class_names=class_names() if timm.data.infer_imagenet_subset(model) == "imagenet-1k" else None,
        licence=None if variant else timm.get_pretrained_cfg(architecture).license,
    )


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """The evaluation transform of timm as a value; its crop modes with borders have no counterpart here."""
    height, width = config["input_size"][1:]
    fraction = config.get("crop_pct") or _DEFAULT_CROP_FRACTION
    scaled = (math.floor(height / fraction), math.floor(width / fraction))
    mode = config.get("crop_mode") or "center"
    if mode == "border" or (mode == "center" and height != width):
        raise ModelError(
            f"timm's crop mode {mode!r} at {height} x {width} is not supported; pass the model as package.module:function"
        )
    return Preprocessing(
        resize=scaled if mode == "squash" else scaled[0],
        crop=(height, width),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _pretrained(timm: Any, architecture: str) -> nn.Module:
    try:
        with patient_and_safe(), _offline_where_there_is_no_hub(), contextlib.redirect_stdout(io.StringIO()):
            model: nn.Module = timm.create_model(architecture, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"weights of timm/{architecture} are not on this machine and can't be fetched ({reason(error)}); pass "
            f"--model timm/{architecture}:/path/to/weights.safetensors, or timm/{architecture}:random for a trial"
        ) from error
    return model


@contextlib.contextmanager
def _offline_where_there_is_no_hub() -> Iterator[None]:
    """Without a network the hub's client tries each of its files for half a minute; cached weights need no network."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (getproxies() or _has_address(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _has_address(url: str) -> bool:
    try:
        return bool(socket.getaddrinfo(urlparse(url).hostname, None))
    except OSError:
        return False


def _package() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(f"models of timm need the timm extra ({error}): pip install 'ascribe[timm]'") from error


def _unknown(architecture: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
    return f"model 'timm/{architecture}' not found; nearest: {', '.join(f'timm/{each}' for each in nearest) or 'none'}"
