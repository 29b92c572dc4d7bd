"""Choosing the arithmetic of a run: the fastest whose maps order the features as float32's maps do.

What is lost depends on the method. A plain gradient is sensitive to which rectifiers are open, which every rounding of the
forward pass may flip; a mean over many points is not. So the question is asked of the run's own methods on its own images.
float32 stands for the truth: its maps and float64's have rank correlations above 0.999 (benchmarks/precision.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from attribution import convolutions, cores
from attribution.arithmetic import as_before
from attribution.question import Question
from jobs.decoding import decode_piece
from jobs.devices import convolves, prepare_model, use_device
from jobs.lanes import Lanes
from jobs.models import Loaded
from jobs.shard import Inquiry, explained, rows_asked
from jobs.spec import Device, Precision, RunSpec

LEAST = 0.99
"""Median rank correlation below which a precision does not keep the maps."""
IMAGES, FEWEST_IMAGES = 64, 8
TRIAL_ROWS: dict[Device, int] = {"cpu": 400, "cuda": 20_000}
"""Rows through the model that one precision may cost, ten to twenty seconds of resnet50: dear methods are tried on fewer images."""
TRIAL_ROWS_PER_PASS = 64
WORTH = 20
"""A run shorter than so many trials would spend more on choosing than it gains."""

FASTEST_FIRST: tuple[Precision, ...] = ("float16", "bfloat16", "bf16x3", "tf32", "tf32-backward")
"""In the order of speed on every GPU that has them; not timed, so that equal specs choose alike."""

PROCESSORS = Path("/proc/cpuinfo")
BFLOAT16_TILES = "amx_bf16"
"""What Linux calls the units of a core that multiply tiles of bfloat16: forward passes take a half to a quarter of the time there."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen and why: each precision that was tried, with the lowest median rank correlation of the run's methods."""

    precision: Precision
    reason: str
    tried: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"precision": self.precision, "reason": self.reason, "rank_correlation": dict(self.tried)}


def candidates(device: Device, model: nn.Module, questions: Sequence[Question]) -> tuple[Precision, ...]:
    """What is available, but for gradients of bfloat16 on cores: they keep no map, and are slower than float32's."""
    faster = available(device, model)
    has_gradients = device == "cpu" and not all(map(_is_forward_only, questions))
    return tuple(name for name in faster if not (has_gradients and name == "bfloat16"))


def available(device: Device, model: nn.Module) -> tuple[Precision, ...]:
    """What this process's GPU or cores have units for, and the model a use: bf16x3 is of convolutions alone."""
    if device == "cpu":
        return (*on_cores(), *(("bf16x3",) if convolves(model) and cores.library() is not None else ()))
    by_kernels = convolves(model) and convolutions.on_gpu(torch.device("cuda")) is not None
    return tuple(name for name in on_gpu(torch.cuda.get_device_capability()) if name != "bf16x3" or by_kernels)


def on_gpu(capability: tuple[int, int]) -> tuple[Precision, ...]:
    """What a GPU of this compute capability has units for: float16 since Volta, the others since Ampere."""
    if capability >= (8, 0):
        return FASTEST_FIRST
    return ("float16",) if capability >= (7, 0) else ()


def on_cores() -> tuple[Precision, ...]:
    has_tiles = PROCESSORS.exists() and BFLOAT16_TILES in PROCESSORS.read_text()
    return ("bfloat16",) if has_tiles else ()


def choose(faster: Sequence[Precision], maps_in: Callable[[Precision], Sequence[Tensor]]) -> Choice:
    """Try precisions in turn until one keeps the maps.  maps_in(precision) -> one (N, *features) a question"""
    tried: dict[str, float] = {}
    truth = maps_in("float32")
    for precision in faster:
        if precision == "bfloat16" and tried.get("float16", 0) > 0:
            continue  # it rounds eight times as much, and is for numbers that float16 can't hold
        tried[precision] = round(min(map(_kept, maps_in(precision), truth)), 4)
        if tried[precision] >= LEAST:
            return Choice(precision, f"the fastest that keeps the order of the maps, with {LEAST} or more", tried)
    return Choice("float32", f"nothing faster keeps the order of the maps, with {LEAST} or more", tried)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's, image by image; equal values share their mean rank.  (N, *features) -> (N,)

    `jobs.measures.spearman` on the device where the maps are: on a core it takes 3 s for 64 maps of 224 pixels.
    """
    ranks = [_ranks(maps.flatten(1)) for maps in (first, second)]
    a, b = (each - each.mean(1, keepdim=True) for each in ranks)
    correlation: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return correlation


def settled(device: Device, questions: Sequence[Question], image_count: int) -> Choice | None:
    """The choice where it needs no trial."""
    if device == "cpu" and cores.library() is None and not all(map(_is_forward_only, questions)):
        return Choice("float32", "on cores without tiles, gradients are taken in float32", {})
    if image_count < WORTH * _trial_images(device, questions):
        return Choice("float32", f"{image_count} images are too few for a trial to pay", {})
    return None


def choose_for(
    device: Device,
    spec: RunSpec,
    loaded: Loaded,
    questions: tuple[Question, ...],
    index: pa.Table,
    references: np.ndarray | None,
    score: Callable[[object], Tensor] | None,
) -> Choice:
    """The choice for a run on the device of this process, by a trial on images spread over the index."""
    if not (faster := candidates(device, loaded.model, questions)):
        return Choice("float32", "this device has nothing faster", {})
    count = min(_trial_images(device, questions), len(index))
    chosen = np.linspace(0, len(index) - 1, count).round().astype(np.int64)
    images = decode_piece(index.take(pa.array(chosen)), loaded.preprocessing)
    if not len(images):
        return Choice("float32", "none of the images that a trial would take can be read", {})

    def maps_in(precision: Precision) -> list[Tensor]:
        place = use_device(precision, torch.get_num_threads(), wants_gpu=device == "cuda")
        inquiry = Inquiry(
            model=prepare_model(loaded, questions, precision, place, score).model,
            questions=questions,
            groups=("",) * len(questions),
            mean=loaded.preprocessing.mean,
            std=loaded.preprocessing.std,
            rows_per_pass=min(TRIAL_ROWS_PER_PASS, count),
            precision=precision,
            seed=spec.seed,
            score=score,
            references=references,
            device=place,
        )
        explanation, _ = explained(inquiry, images, Lanes(place).over(images.pixels))
        return [answer.attribution for answer in explanation.answers]

    with as_before():
        choice = choose(faster, maps_in)
    if device == "cuda":
        torch.cuda.empty_cache()  # the workers' from now on
    return choice


def choose_here(device: Device, *asked: Any) -> Choice:
    """`choose_for` where this process sees the device."""
    if device == "cuda" and not torch.cuda.is_available():
        return Choice("float32", "the planner sees no GPU to try others on", {})
    return choose_for(device, *asked)


def _trial_images(device: Device, questions: Sequence[Question]) -> int:
    rows_an_image = 1 + sum(map(rows_asked, questions))
    return max(FEWEST_IMAGES, min(IMAGES, int(TRIAL_ROWS[device] / rows_an_image)))


def _is_forward_only(question: Question) -> bool:
    return question.cost((3, 224, 224)).forward_backward == 0


def _kept(maps: Tensor, truth: Tensor) -> float:
    """The median over the images that have a map; 0 where a precision makes of one what is no number."""
    asked = truth.flatten(1).isfinite().all(1)
    if not bool(maps[asked].isfinite().all()):
        return 0.0
    correlations = rank_correlation(maps[asked], truth[asked])
    known = correlations[correlations.isfinite()]  # an empty map orders nothing
    return float(known.median()) if len(known) else 1.0


def _ranks(rows: Tensor) -> Tensor:
    ordered = rows.sort(1).values
    below, up_to = (torch.searchsorted(ordered, rows, right=right) for right in (False, True))
    return (below + up_to).double() / 2
