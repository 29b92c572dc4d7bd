"""A shard's images in, results and failures out: the only place where arrays cross from the engine to the store. No Ray."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attribution.explain import Answer, Images, Normalisation, explain
from attribution.metrics import Metric
from attribution.passes import Passes
from attribution.question import Question
from jobs.decoding import ShardImages
from jobs.statistics import round_mantissa, statistics
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
    yield from images.failures
    if not len(images):
        return
    passes = Passes(inquiry.rows_per_pass, on_rows)
    explanation = explain(
        inquiry.model,
        to_device(inquiry, images),
        inquiry.questions,
        seed=inquiry.seed,
        passes=passes,
        score=inquiry.score,
        metrics=inquiry.metrics,
    )
    seen = {"prediction": _numpy(explanation.prediction), "probability": _numpy(explanation.probability)}
    for group, answer in zip(inquiry.groups, explanation.answers, strict=True):
        yield from _unanswered(answer, images)
        if bool(answer.answered.any()):
            yield _result(inquiry, group, answer, images, seen, passes)


def to_device(inquiry: Inquiry, images: ShardImages) -> Images:
    """The pixels as the model sees them: uint8 travels to the device, a quarter of the bytes, and becomes float there."""
    references = None if inquiry.references is None else _normalised(inquiry, inquiry.references)
    return Images(
        pixels=_normalised(inquiry, images.pixels),
        keys=images.keys,
        labels=torch.from_numpy(images.labels).to(inquiry.device),
        normalisation=Normalisation(inquiry.mean, inquiry.std),
        references=references,
        mean=None if references is None else references.mean(0),
    )


def _normalised(inquiry: Inquiry, decoded: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(np.array(decoded))  # Ray's arrays are read-only views; torch wants its own
    if inquiry.device.type == "cuda":
        pixels = pixels.pin_memory().to(inquiry.device, non_blocking=True)
    dtype = torch.float64 if inquiry.precision == "float64" else torch.float32
    mean, std = (
        torch.tensor(v, dtype=dtype, device=inquiry.device).reshape(1, -1, 1, 1) for v in (inquiry.mean, inquiry.std)
    )
    return ((pixels.permute(0, 3, 1, 2).to(dtype) / 255 - mean) / std).contiguous()


def _result(
    inquiry: Inquiry, group: str, answer: Answer, images: ShardImages, seen: dict[str, np.ndarray], passes: Passes
) -> Result:
    asked = answer.answered.cpu()
    maps = answer.attribution[asked.to(answer.attribution.device)].float()
    question = answer.question
    at_answered = {name: values[asked.numpy()] for name, values in seen.items()}
    optional = {"convergence_delta": answer.convergence_delta, "steps": answer.steps, **answer.metrics}
    summary = {
        **at_answered,
        "method": str(question),
        "name": question.name,
        "layer": question.at,
        "neuron": None if question.of is None else str(question.of),
        "target": _numpy(answer.target)[asked.numpy()],
        "target_probability": _numpy(answer.target_probability)[asked.numpy()],
        **{name: _numpy(values)[asked.numpy()] for name, values in optional.items() if values is not None},
        **statistics(maps),
        "rows_per_pass": passes.rows_per_pass,
        "precision": inquiry.precision,
        "seconds": answer.seconds / int(asked.sum()),
    }
    return Result(group, images.rows[asked.numpy()], _for_store(inquiry, maps), summary)


def _for_store(inquiry: Inquiry, maps: Tensor) -> np.ndarray | None:
    if inquiry.store == "none":
        return None
    # A sum over channels is rounded after it is taken, which is the store's part.
    return _numpy(round_mantissa(maps, inquiry.keep_bits) if inquiry.store == "full" else maps)


def _unanswered(answer: Answer, images: ShardImages) -> Iterator[Failure]:
    for position in (~answer.answered).nonzero().flatten().tolist():
        yield Failure(
            image=int(images.rows[position]),
            key=images.keys[position],
            method=str(answer.question),
            stage="target",
            error=f"target is {answer.question.target!r} and the image has no label",
            attempts=1,
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
