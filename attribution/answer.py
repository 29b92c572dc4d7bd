"""Answering one question about a batch of images, whatever it needs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attribution.baselines import Baselines, make_baselines, parse_baselines
from attribution.bundle import Features, parts_of
from attribution.evaluate import Pass
from attribution.images import Images
from attribution.method import Attributed
from attribution.methods.regional import Regional
from attribution.metrics import Case, Metric, completeness_delta
from attribution.noise import Draws
from attribution.passes import Passes
from attribution.question import Question
from attribution.resolve import feature_shape, output_shape, place_of, site_of
from attribution.score import Score
from attribution.site import Known, Layer, Point, Site
from attribution.target import Aim


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Answer:
    """One question answered for N images."""

    question: Question
    attribution: Tensor
    """(N, *features), float32 or float64; NaN for images that could not be asked."""
    answered: Tensor
    """(N,) bool: False where the target is a label and the image has none."""
    target: Tensor
    """(N,) the class that was explained; -1 where it is a neuron, a function of the output, or unanswered."""
    target_probability: Tensor
    """(N,)"""
    convergence_delta: Tensor | None = None
    """(N,) what the attributions add up to beyond what they explain, where the method promises completeness."""
    steps: Tensor | None = None
    """(N,) gradients taken, where the method decides that for each image."""
    metrics: Mapping[str, Tensor]
    """(N,) for each metric that was asked for and says something about such a map, by its name."""
    seconds: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Asking:
    """What all questions about one batch of images share."""

    model: nn.Module
    images: Images
    explained: Score
    passes: Passes
    seen: Pass | None
    """What the first pass told; None where a score of the caller's takes the target's place."""
    points: Mapping[Question, Point]
    """Of the questions that this pass answers."""
    seconds: float
    """What this pass took for each of them."""
    metrics: Sequence[Metric]
    awaited: Counter[Question]
    """How many questions still read the same noisy copies."""
    seed: int
    moments: dict[Question, tuple[Features, Features]] = field(default_factory=dict)

    def answer(self, question: Question) -> Answer:
        """Ask about the images that have a target; the others get NaN."""
        started = time.perf_counter()
        target, probability, answered = self._target(question)
        rows = None if bool(answered.all()) else answered.nonzero()[:, 0]
        if rows is not None and not len(rows):
            shape = output_shape(question, self.model, self.images.pixels[:1])
            told = {"attribution": self.images.pixels.new_full((0, *shape), torch.nan)}
        else:
            told = self._ask(question, target, rows)
        if rows is not None:
            told = {name: _spread(values, answered) for name, values in told.items()}
        return Answer(
            question=question,
            answered=answered,
            target=target,
            target_probability=probability.to(told["attribution"].dtype),
            seconds=time.perf_counter() - started + (self.seconds if question in self.points else 0.0),
            **{name: told.pop(name) for name in ("attribution", "convergence_delta", "steps") if name in told},
            metrics=told,
        )

    def _target(self, question: Question) -> tuple[Tensor, Tensor, Tensor]:
        """The class to explain of each image, its probability, and whether there is one; without a class there is no need."""
        nothing = torch.full((len(self.images),), -1, device=self.images.pixels.device)
        if self.seen is None or not question.is_aimed:
            return nothing, torch.full_like(nothing, torch.nan, dtype=torch.float64), nothing < 0
        target = Aim(question.target).choose(self.seen.logits, self.images.labels)
        chosen = self.seen.logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
        return target, torch.where(target >= 0, chosen, torch.nan), target >= 0

    def _ask(self, question: Question, target: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        """What there is to tell of these images, by name."""
        images = self.images if rows is None else self.images.rows(rows)
        site, x = self._site(question, target, rows, images), images.pixels
        draws = Draws(self.seed, images.keys)
        needs = _needs(question, self.model, site, images, draws)
        attributed = self._attributed(question, site, x, needs)
        attribution = attributed.features.detach()
        told = {
            "attribution": parts_of(attribution)[0],
            "convergence_delta": completeness_delta(question.asked, site, x, attribution, **needs),
            "steps": attributed.steps,
        }
        if self.metrics:
            case = Case(
                site=site,
                images=images,
                attribution=attribution,
                again=lambda near: question.asked.attribute(site, near, **needs),
                shares=question.method.shares(attribution, **needs) if question.method.holds_shares else None,
                reference=needs.get("baseline", torch.zeros_like(x[:1])),
                draws=draws.within("metric"),
            )
            told |= {metric.name: metric.measure(case) for metric in self.metrics}
        return {name: values for name, values in told.items() if values is not None}

    def _site(self, question: Question, target: Tensor, rows: Tensor | None, images: Images) -> Site:
        """Where the question is asked, with what the first pass has told about it."""
        if self.seen is None or not question.is_aimed:
            return site_of(question, self.model, self.explained, self.passes)
        logits, point = self.seen.logits, self.points.get(question)
        if rows is not None:
            target, logits = target[rows], logits[rows]
            point = point and Point(point.score[rows], point.features[rows], point.gradient[rows])
        explained = self.explained.aimed(target)
        site = site_of(question, self.model, explained, self.passes)
        return Known(site, images.pixels, explained.of(logits).to(images.pixels.dtype), point)

    def _attributed(self, question: Question, site: Site, x: Features, needs: dict[str, Any]) -> Attributed:
        """Questions that differ only in what they make of the same noisy copies have these made once."""
        same = question.of_any_kind
        if question.noise is None or (self.awaited[same] < 2 and same not in self.moments):
            return question.asked.attributed(site, x, **needs)
        tunnel = question.noise.around(question.method)
        moments = self.moments.pop(same) if same in self.moments else tunnel.moments(site, x, **needs)
        self.awaited[same] -= 1
        if self.awaited[same]:
            self.moments[same] = moments
        return Attributed(tunnel.reduced(*moments))


def _needs(question: Question, model: nn.Module, site: Site, images: Images, draws: Draws) -> dict[str, Any]:
    """What the method asks for, by name."""
    wanted = question.asked.needs() | question.method.needs()
    needs: dict[str, Any] = {"draws": draws} if "draws" in wanted else {}
    if "layer" in wanted:
        needs["layer"] = Layer(site.explained, place_of(model, str(question.at)), site.passes)
    if isinstance(question.method, Regional):
        shape = feature_shape(question, site, images.pixels[:1])
        needs["mask"] = question.method.mask(shape, images)
    if question.baseline is not None:
        baselines: Baselines = make_baselines(parse_baselines(question.baseline), images, draws)
        needs |= {"baseline": baselines.members[0]} if "baseline" in wanted else {"baselines": baselines}
    return needs


def _spread(values: Tensor, answered: Tensor) -> Tensor:
    """Values of the answered images among NaN, or 0 where they are counts, for the others."""
    whole = values.new_full((len(answered), *values.shape[1:]), torch.nan if values.is_floating_point() else 0)
    whole[answered] = values
    return whole
