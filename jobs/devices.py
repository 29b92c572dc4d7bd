"""Where and in what precision a worker computes, with everything that would make equal runs differ switched off."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attribution import cores
from attribution.arithmetic import arithmetic, bfloat16_gradients
from attribution.convolutions import on_gpu
from attribution.prepare import LAYOUT, OWN, STEPS, Prepared, as_by_torch, compiled, prepare
from attribution.question import Question
from jobs.models import Loaded

logger = logging.getLogger(__name__)

ReadScore = Callable[[object], Tensor] | None

KERNELS = frozenset({"bf16x3", "float16", "bfloat16"})
"""Precisions in which a GPU convolves by kernels of our own; cores do so in bf16x3 alone."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def use_device(precision: str, threads: int, *, wants_gpu: bool) -> torch.device:
    """The device of this process. Algorithms are fixed and not chosen by timing: equal specs give equal bits."""
    torch.set_num_threads(threads)  # Ray's OMP_NUM_THREADS does not reach a process that has imported torch before
    arithmetic.bf16x3 = precision == "bf16x3"
    if not (wants_gpu and torch.cuda.is_available()):
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # It would fill every new array with NaN, for debugging: a pass over memory more.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch leaves it undeclared
    return torch.device("cuda")


@contextmanager
def tf32(*, allowed: bool = True) -> Iterator[None]:
    """Convolutions and matrix products in TF32 meanwhile, or not."""
    settings: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in settings]
    try:
        for each in settings:
            each.allow_tf32 = allowed
        yield
    finally:
        for each, was_allowed in zip(settings, before, strict=True):
            each.allow_tf32 = was_allowed


def backward_under(precision: str) -> Callable[[], AbstractContextManager[None]]:
    """What a run of this precision takes its gradients under."""
    return {"tf32-backward": tf32, "bf16x3": bfloat16_gradients}.get(precision, nullcontext)


def prepare_model(
    loaded: Loaded, questions: Sequence[Question], precision: str, device: torch.device, score: ReadScore = None
) -> Prepared:
    """The model on its device, prepared; the engine casts between its precision and that of the pixels.

    Every worker verifies the preparation on the same made-up image, so that all of them come to the same model.
    """
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, 3, *loaded.preprocessing.crop, generator=generator).to(device)
    dtype = DTYPES.get(precision)
    wanted = [step for step in STEPS if step != LAYOUT or _layout_pays(loaded.model, precision, device)]

    def prepared_by(steps: Sequence[str]) -> Prepared:
        prepared = prepare(loaded.model.to(device), questions, example, score, steps)
        return replace(prepared, model=prepared.model.to(dtype=dtype))

    reason = _lacking(precision, device) if convolves(loaded.model) else ""
    if device.type == "cpu" or on_gpu(device) is not None:
        prepared = prepared_by(wanted)
        if reason:  # cores then compute in float32
            logger.warning("precision refused", extra={"reason": reason})
            return replace(prepared, refused=(*prepared.refused, reason))
        if _has_kernels(precision, device) and OWN in prepared.done:
            reason = as_by_torch(prepared.model, example.to(dtype=dtype), score)
        if not reason:
            return prepared
    without = prepared_by([step for step in wanted if step != OWN])
    if reason:
        logger.warning("own convolutions refused", extra={"reason": reason})
        without = replace(without, refused=(*without.refused, f"{OWN}: {reason}"))
    return without


def _has_kernels(precision: str, device: torch.device) -> bool:
    """Whether convolutions of ours are kernels of ours, too; on cores they are oneDNN's but for one precision."""
    return device.type != "cpu" or precision == "bf16x3"


def _lacking(precision: str, device: torch.device) -> str:
    """Why this precision's kernels can't be had here, if so."""
    if device.type == "cpu":
        return f"bf16x3 {cores.LACKING}" if precision == "bf16x3" and cores.library() is None else ""
    return "Triton can't be had here" if precision in KERNELS and on_gpu(device) is None else ""


def _layout_pays(model: nn.Module, precision: str, device: torch.device) -> bool:
    """Where float32 convolutions of a GPU have kernels for channels_last: only where they are depthwise.

    The others are transposed there and back. On an H200 resnet50's forward and backward take 16 % longer for it, those
    of efficientnet_lite0 10 % less.
    """
    if device.type != "cuda" or precision not in ("float32", "tf32-backward"):
        return True
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return any(each.groups == each.in_channels > 1 for each in convolutions)


def convolves(model: nn.Module) -> bool:
    """Whether most of its products are convolutions."""
    kinds = [type(module) for module in model.modules()]
    return sum(issubclass(kind, nn.Conv2d) for kind in kinds) > sum(issubclass(kind, nn.Linear) for kind in kinds)


def compiling_pays(prepared: Prepared, precision: str) -> bool:
    """Not where most of the work is kernels of our own already, which a compiler would take out again."""
    has_kernels = precision in KERNELS and _has_kernels(precision, next(prepared.model.parameters()).device)
    return not (has_kernels and OWN in prepared.done and convolves(prepared.model))


def compile_model(
    model: nn.Module, rows_per_pass: int, crop: tuple[int, int], backend: str = "inductor"
) -> tuple[Callable[..., Any] | None, str]:
    """The model compiled for the passes of a run, and what to record of it; None where it can't be or does not compute the same."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(rows_per_pass, 3, *crop, generator=generator).to(next(model.parameters()))
    try:
        return compiled(model, rows, backend), "compiled"
    except Exception as error:  # noqa: BLE001  # compilers fail in ways of their own; the model as it is does as well
        reason = str(error).strip().split("\n", 1)[0][:200]
        logger.warning("model not compiled", extra={"reason": reason})
        return None, f"not compiled: {type(error).__name__}: {reason}"


@contextmanager
def one_at_a_time_per_machine(name: str) -> Iterator[None]:
    """The first worker on a machine fetches weights into the cache; its neighbours wait and read them from there."""
    folder = Path(tempfile.gettempdir()) / f"ascribe-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
