"""A state dict from a file, without running the file: safetensors, or torch's format with `weights_only`."""

import contextlib
import io
import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from jobs.places import ReadError, is_remote, open_file
from jobs.zoo.entry import ModelError

# Where training scripts keep the weights within a checkpoint: torch's examples and Lightning, timm, MMPretrain-like ones.
_NESTED = ("state_dict", "model", "model_state_dict", "net")
# What wrapping adds to every name: DataParallel and DistributedDataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
# torch's downloads have no timeout of their own; nobody waits longer for a server that is there.
_CONNECT_TIMEOUT_S = 20.0


def read_state(place: str, *, trust_checkpoint: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint (a path or s3://, gs://, az://) by name, unwrapped from what training scripts put around them."""
    stored = _fetched(place) if is_remote(place) else Path(place).expanduser()
    if isinstance(stored, Path) and not stored.is_file():
        raise ModelError(f"checkpoint {stored} not found; pass NAME:/path/to/weights.pt or .safetensors")
    loaded = (
        _safetensors(stored, place) if place.endswith(".safetensors") else _torch_file(stored, place, trust_checkpoint)
    )
    return _unwrapped(loaded, place)


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load strictly: every tensor of the model is in the state with its shape, and no other; else one line that names them."""
    wanted = model.state_dict()
    # A count that only training reads, and that files from before 2018 lack.
    state = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")} | dict(state)
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: {'; '.join(faults)}; is it of another architecture?"
        )
    for name, tensor in wanted.items():
        tensor.copy_(state[name])


@contextlib.contextmanager
def patient_and_safe() -> Iterator[None]:
    """While a library fetches and loads its own weights: torch's safe loader whatever it asks for, and a bounded wait."""
    name, timeout_s = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", socket.getdefaulttimeout()
    before = os.environ.get(name)
    os.environ[name] = "1"
    socket.setdefaulttimeout(_CONNECT_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout_s)
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def needs_pickle(error: Exception) -> bool:
    return isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error)


def reason(error: Exception) -> str:
    """One line of what a library says, often over a page."""
    if needs_pickle(error):
        return "it holds more than tensors"
    return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:200]


def _fetched(uri: str) -> io.BytesIO:
    try:
        file, _ = open_file(uri)
        with file:
            return io.BytesIO(file.read())
    except (ReadError, OSError) as error:
        raise ModelError(f"checkpoint {uri} can't be read: {reason(error)}") from error


def _safetensors(stored: Path | io.BytesIO, place: str) -> object:
    try:
        return (
            safetensors.torch.load_file(stored) if isinstance(stored, Path) else safetensors.torch.load(stored.read())
        )
    except SafetensorError as error:
        raise ModelError(f"checkpoint {place} is damaged: {reason(error)}") from error


def _torch_file(stored: Path | io.BytesIO, place: str, trust_checkpoint: bool) -> object:
    try:
        return torch.load(stored, map_location="cpu", weights_only=not trust_checkpoint)
    except Exception as error:
        if trust_checkpoint or not needs_pickle(error):
            raise ModelError(f"checkpoint {place} is damaged: {reason(error)}") from error
        raise ModelError(
            f"checkpoint {place} holds more than tensors and needs pickle, which can run any code; save its state_dict alone "
            "(torch.save(model.state_dict(), path)) or, if you trust where it comes from, pass --trust-checkpoint"
        ) from error


def _unwrapped(content: object, place: str) -> dict[str, Tensor]:
    if isinstance(content, nn.Module):  # a whole pickled model; only with --trust-checkpoint
        content = content.state_dict()
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping | nn.Module):
            return _unwrapped(content[key], place)
    state: dict[str, Any] = dict(content) if isinstance(content, Mapping) else {}
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        found = ", ".join(map(str, list(state)[:5])) or type(content).__name__
        raise ModelError(
            f"checkpoint {place} holds no state dict (found: {found}); save model.state_dict() or {{'state_dict': ...}}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
