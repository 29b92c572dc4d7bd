"""A state dict from a file, without running the file: safetensors, or torch's format with `weights_only`."""

import contextlib
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

from jobs.zoo.entry import ModelError

# Where training scripts keep the weights within a checkpoint: torch's examples and Lightning, timm, MMPretrain-like ones.
_NESTED = ("state_dict", "model", "model_state_dict", "net")
# What wrapping adds to every name: DataParallel and DistributedDataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
# torch's downloads have no timeout of their own; nobody waits longer for a server that is there.
_CONNECT_TIMEOUT_S = 20.0


def read_state(path: str | Path, *, trust_checkpoint: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, unwrapped from what training scripts put around them."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ModelError(f"checkpoint {file} not found; pass NAME:/path/to/weights.pt or .safetensors")
    content = _safetensors(file) if file.suffix == ".safetensors" else _torch_file(file, trust_checkpoint)
    return _unwrapped(content, file)


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load strictly: every tensor of the model is in the state with its shape, and no other; else one line that names them."""
    wanted = model.state_dict()
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
    model.load_state_dict(state)


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


def _safetensors(file: Path) -> object:
    try:
        return safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"checkpoint {file} is damaged: {error}") from error


def _torch_file(file: Path, trust_checkpoint: bool) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=not trust_checkpoint)
    except Exception as error:
        if trust_checkpoint or not needs_pickle(error):
            raise ModelError(f"checkpoint {file} is damaged: {reason(error)}") from error
        raise ModelError(
            f"checkpoint {file} holds more than tensors and needs pickle, which can run any code; save its state_dict alone "
            "(torch.save(model.state_dict(), path)) or, if you trust where it comes from, pass --trust-checkpoint"
        ) from error


def _unwrapped(content: object, file: Path) -> dict[str, Tensor]:
    if isinstance(content, nn.Module):  # a whole pickled model; only with --trust-checkpoint
        content = content.state_dict()
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping | nn.Module):
            return _unwrapped(content[key], file)
    state: dict[str, Any] = dict(content) if isinstance(content, Mapping) else {}
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        found = ", ".join(map(str, list(state)[:5])) or type(content).__name__
        raise ModelError(
            f"checkpoint {file} holds no state dict (found: {found}); save model.state_dict() or {{'state_dict': ...}}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
