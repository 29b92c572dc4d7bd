"""Answering questions about a model for a batch of images: the door through which everything outside uses the engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribution.answer import Answer, Asking, leading, recorded
from attribution.bundle import sent
from attribution.evaluate import evaluate
from attribution.images import Images, Normalisation
from attribution.metrics import Metric
from attribution.passes import Passes
from attribution.question import Question
from attribution.resolve import dtype_to_cast, output_shape, resolve, site_read
from attribution.score import Score, refuse_training
from attribution.tail import Tail
from attribution.target import Aim

__all__ = ["Answer", "Explanation", "Images", "Normalisation", "explain", "output_shape", "resolve"]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The model's prediction (N,) and its probability (N,), and one Answer after another as they are computed."""

    prediction: Tensor
    probability: Tensor
    answers: Iterator[Answer]


def explain(
    model: nn.Module,
    images: Images,
    questions: Sequence[Question],
    *,
    metrics: Sequence[Metric] = (),
    seed: int = 0,
    passes: Passes | None = None,
    rows_per_pass: int | None = None,
    score: Callable[[Any], Tensor] | None = None,
) -> Explanation:
    """Answer every question for every image; methods that can share passes do.

    `score` maps the model's output to one number per image and takes the place of the target. `metrics` are asked of
    every map. Questions must be resolved.
    """
    refuse_training(model)
    passes = passes or Passes(rows_per_pass)
    explained = Score(model=model, read=score, dtype=dtype_to_cast(model, images.pixels))
    reads_labels = any(Aim(question.target).is_label for question in questions)
    labels = sent(images.labels, images.pixels.device) if reads_labels else images.labels
    logits, points, led, started = None, {}, {}, time.perf_counter()
    tails: dict[str, Tail] = {}
    if score is not None:
        prediction = torch.full((len(images),), -1, device=images.pixels.device)
        probability = torch.full((len(images),), torch.nan, device=images.pixels.device)
    else:
        shared = [q for q in dict.fromkeys(questions) if q.reads_pass or q.looks_at_layer]
        leader = None if shared else next((q for q in questions if q.predicts), None)
        walker = None if shared or leader else next((q for q in questions if q.walks_from_layer), None)
        record = None if walker is None else recorded(walker, model, explained, images, passes)
        if leader is not None:
            first = leading(leader, model, explained, images, labels, passes, seed)
            logits, led = first.logits, {leader: first}
        elif walker is not None and record is not None:
            tail, logits = record
            tails = {str(walker.at): tail}
        else:
            sites = [site_read(question, model, explained, passes) for question in shared]
            aims = [Aim(question.target) for question in shared]
            seen = evaluate(sites, images.pixels, aims, labels, model=explained, passes=passes)
            logits, points = seen.logits, dict(zip(shared, seen.points, strict=True))
        assert logits is not None
        for text in dict.fromkeys(question.target for question in questions if question.is_aimed):
            Aim(text).check(logits.shape[1], images.labels)
        probability, prediction = logits.float().softmax(1).max(1)
    asking = Asking(
        model=model,
        images=images,
        labels=labels,
        explained=explained,
        passes=passes,
        logits=logits,
        points=points,
        led=led,
        tails=tails,
        seconds=(time.perf_counter() - started) / max(1, len(points)),
        metrics=metrics,
        awaited=Counter(question.of_any_kind for question in questions if question.noise),
        seed=seed,
    )
    return Explanation(prediction, probability, map(asking.answer, questions))
