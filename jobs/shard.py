"""A shard's images in, results and failures out: the only place where arrays cross from the engine to the store. No Ray."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribution.explain import Answer, Explanation, Images, Normalisation, explain
from attribution.graphs import Graphs, Told
from attribution.images import per_channel
from attribution.metrics import Metric
from attribution.passes import Passes
from attribution.question import Question
from jobs.decoding import ShardImages
from jobs.devices import backward_under
from jobs.lanes import Arrival, Landing, Lanes
from jobs.statistics import EXACT, columns, numbers, round_mantissa
from storage.records import Failure, Result, Store


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inquiry:
    """What a worker asks of every shard: loaded and resolved once."""

    model: nn.Module
    questions: tuple[Question, ...]
    groups: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows_per_pass: int
    precision: str
    seed: int = 0
    store: Store = "full"
    keep_bits: int = 10
    score: Callable[[object], Tensor] | None = None
    references: np.ndarray | None = None
    """(K, H, W, 3) uint8, what the baselines `reference` and `mean` draw from."""
    metrics: tuple[Metric, ...] = ()
    device: torch.device
    compiled: Callable[..., object] | None = None
    """The model compiled, where the run is worth it."""
    graphs: Graphs | None = None
    """On a GPU: the passes that shards have in common, captured."""
    seen_references: Tensor | None = field(init=False, default=None)
    """(K, C, H, W), the references as the model sees them."""

    def __post_init__(self) -> None:
        """Send the references to the device once."""
        if self.references is not None:
            there = torch.from_numpy(np.array(self.references)).to(self.device)
            object.__setattr__(self, "seen_references", _normalised(self, there))

    @property
    def rows_per_image(self) -> float:
        """Rows that pass through the model for one image: what progress within a shard is measured against."""
        return 1 + sum(rows_asked(question) for question in self.questions)


def rows_asked(question: Question, image_shape: tuple[int, ...] = (3, 224, 224)) -> float:
    cost = question.cost(image_shape)
    return cost.forward + cost.forward_backward


def attribute_shard(
    inquiry: Inquiry, images: ShardImages, on_rows: Callable[[int], None] | None = None
) -> Iterator[Result | Failure]:
    """Answer every question for the images of a shard; a label-target without a label is a failure, never class 0.

    `on_rows` hears of each pass how many rows it had; what it raises ends the shard.
    """
    lanes = Lanes(inquiry.device)
    yield from images.failures
    for answered in answers(inquiry, images, lanes, lanes.over(images.pixels), on_rows):
        yield from answered.items()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """One question's answers on their way back to the host."""

    inquiry: Inquiry
    images: ShardImages
    group: str
    question: Question
    seen: Landing
    """What the prediction was."""
    told: Landing
    rows_per_pass: int | None
    warnings: Sequence[str]
    """What the maps can't promise, e.g. where an operation without a rule was passed by the plain gradient."""
    seconds: Callable[[], float]

    def items(self) -> Iterator[Result | Failure]:
        """What the store gets of them. Waits for the device, and raises what went wrong there."""
        told, seen = self.told.wait(), self.seen.wait()
        asked = told.pop("answered")
        yield from _unanswered(asked, self.question, self.images)
        if not asked.any():
            return
        told, seen = (
            {name: values if asked.all() else values[asked] for name, values in each.items()} for each in (told, seen)
        )
        maps, numbers = told.pop("maps", None), told.pop("numbers")
        summary = {
            **seen,
            "method": str(self.question),
            "name": self.question.name,
            "layer": self.question.at,
            "neuron": None if self.question.of is None else str(self.question.of),
            **told,
            **columns(numbers),
            "rows_per_pass": self.rows_per_pass,
            "precision": self.inquiry.precision,
            "seconds": self.seconds() / int(asked.sum()),
        }
        yield Result(self.group, self.images.rows[asked], maps, summary)


def answers(
    inquiry: Inquiry, images: ShardImages, lanes: Lanes, arrival: Arrival, on_rows: Callable[[int], None] | None = None
) -> Iterator[Answered]:
    """Ask the device every question, waiting for it no more than the engine does."""
    if not len(images):
        return
    start = lanes.moment()
    explanation, passes = explained(inquiry, images, arrival, on_rows)
    seen = lanes.back({"prediction": explanation.prediction, "probability": explanation.probability})
    before, shared = lanes.moment(), len(inquiry.questions)
    first = start, before
    for group, answer in zip(inquiry.groups, explanation.answers, strict=True):
        after = lanes.moment()
        yield Answered(
            inquiry=inquiry,
            images=images,
            group=group,
            question=answer.question,
            seen=seen,
            told=lanes.back(_told(inquiry, answer)),
            rows_per_pass=passes.rows_per_pass,
            warnings=passes.warnings,
            seconds=partial(_seconds, lanes, (before, after), first, shared)
            if lanes.cuda
            else partial(float, answer.seconds),
        )
        before = lanes.moment()


def explained(
    inquiry: Inquiry, images: ShardImages, arrival: Arrival, on_rows: Callable[[int], None] | None = None
) -> tuple[Explanation, Passes]:
    """The engine's answers, one after the other as they are taken, and the passes they are computed in."""
    passes = Passes(
        inquiry.rows_per_pass,
        on_rows,
        graphs=inquiry.graphs,
        backward=backward_under(inquiry.precision),
        compiled=inquiry.compiled,
    )
    explanation = explain(
        inquiry.model,
        to_device(inquiry, images, arrival),
        inquiry.questions,
        seed=inquiry.seed,
        passes=passes,
        score=inquiry.score,
        metrics=inquiry.metrics,
    )
    return explanation, passes


def _seconds(lanes: Lanes, own: tuple[Any, Any], shared: tuple[Any, Any], sharers: int) -> float:
    """A GPU's time for an answer: the engine's clock only sees it being asked. All questions bear the first pass alike."""
    return lanes.seconds(*own) + lanes.seconds(*shared) / sharers


def to_device(inquiry: Inquiry, images: ShardImages, arrival: Arrival) -> Images:
    """The pixels as the model sees them: uint8 travels to the device, a quarter of the bytes, and becomes float there."""
    references = inquiry.seen_references
    return Images(
        pixels=_normalised(inquiry, arrival.take()),
        keys=images.keys,
        labels=torch.from_numpy(images.labels),
        normalisation=Normalisation(inquiry.mean, inquiry.std),
        references=references,
        mean=None if references is None else references.mean(0),
    )


def _normalised(inquiry: Inquiry, pixels: Tensor) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W)"""
    dtype = torch.float64 if inquiry.precision == "float64" else torch.float32
    mean, std = (per_channel(numbers, dtype, pixels.device) for numbers in (inquiry.mean, inquiry.std))
    seen = pixels.permute(0, 3, 1, 2)
    normalised = torch.empty(seen.shape, dtype=dtype, device=pixels.device).copy_(seen)
    return normalised.div_(255).sub_(mean).div_(std)  # in place: one array of this size, not four


def _told(inquiry: Inquiry, answer: Answer) -> dict[str, Tensor]:
    """What the host is told of an answer, computed on the device: numbers by hundreds of small kernels, worth capturing."""
    # A sum over channels is rounded after it is taken, which is the store's part.
    keep_bits = inquiry.keep_bits if inquiry.store == "full" else EXACT

    def shown(maps: Tensor) -> Told:
        return (numbers(maps),) if inquiry.store == "none" else (numbers(maps), round_mantissa(maps, keep_bits))

    graphs, maps = inquiry.graphs, answer.attribution
    found = shown(maps) if graphs is None else graphs.run((numbers, inquiry.store, keep_bits), shown, maps)
    optional = {"convergence_delta": answer.convergence_delta, "steps": answer.steps, **answer.metrics}
    return {
        "answered": answer.answered,
        "target": answer.target,
        "target_probability": answer.target_probability,
        **{name: values for name, values in optional.items() if values is not None},
        **dict(zip(("numbers", "maps"), found, strict=False)),
    }


def _unanswered(answered: np.ndarray, question: Question, images: ShardImages) -> Iterator[Failure]:
    for position in np.flatnonzero(~answered).tolist():
        yield Failure(
            image=int(images.rows[position]),
            key=images.keys[position],
            method=str(question),
            stage="target",
            error=f"target is {question.target!r} and the image has no label",
            attempts=1,
        )
