"""Answering one question about a batch of images, whatever it needs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from attribution.baselines import Baselines, make_baselines, parse_baselines
from attribution.bundle import Features, parts_of, row_sum
from attribution.front import FrontDiffers
from attribution.images import Images
from attribution.known import Known
from attribution.layer import Layer
from attribution.method import Attributed
from attribution.methods.regional import Regional
from attribution.metrics import Case, Metric, completeness_delta
from attribution.noise import Draws
from attribution.passes import Passes
from attribution.question import Question
from attribution.resolve import feature_shape, output_shape, place_of, site_of, site_read
from attribution.score import Aiming, Score
from attribution.site import Point, Site
from attribution.tail import Tail
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
    labels: Tensor
    """The images', where their pixels are if a target is one."""
    explained: Score
    passes: Passes
    logits: Tensor | None
    """What the first pass told; None where a score of the caller's takes the target's place."""
    points: Mapping[Question, Point]
    """Of the questions that this pass answers."""
    led: Mapping[Question, Attributed]
    """The answer to the question that made the first pass its own."""
    tails: Mapping[str, Tail]
    """By layer, the tail at the images whose recording was the first pass."""
    seconds: float
    """What this pass took for each of them."""
    metrics: Sequence[Metric]
    awaited: Counter[Question]
    """How many questions still read the same noisy copies."""
    seed: int
    targets: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    """By what was asked for, the class of each image, its probability, and whether there is one."""
    moments: dict[Question, tuple[Features, Features]] = field(default_factory=dict)

    def answer(self, question: Question) -> Answer:
        """Ask about the images that have a target; the others get NaN."""
        started = time.perf_counter()
        target, probability, answered = self._target(question)
        # Labels of the host are looked at without waiting for the device.
        everyone = not self._may_miss(question) or int(self.images.labels.min()) >= 0
        rows = None if everyone else answered.nonzero()[:, 0]
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
            seconds=time.perf_counter()
            - started
            + (self.seconds if question in self.points or question in self.led else 0.0),
            **{name: told.pop(name) for name in ("attribution", "convergence_delta", "steps") if name in told},
            metrics=told,
        )

    def _target(self, question: Question) -> tuple[Tensor, Tensor, Tensor]:
        """The class to explain of each image, its probability, and whether there is one; without a class there is no need."""
        if self.logits is None or not question.is_aimed:
            nothing = torch.full((len(self.images),), -1, device=self.images.pixels.device)
            return nothing, torch.full_like(nothing, torch.nan, dtype=torch.float64), nothing < 0
        if question.target not in self.targets:
            target = Aim(question.target).choose(self.logits, self.labels)
            probability = self.logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
            answered = target >= 0
            if self._may_miss(question):
                probability = probability.where(answered, torch.nan)
            self.targets[question.target] = target, probability, answered
        return self.targets[question.target]

    def _may_miss(self, question: Question) -> bool:
        """Whether there may be images without a target: only a label can be missing."""
        return self.logits is not None and question.is_aimed and Aim(question.target).is_label

    def _ask(self, question: Question, target: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        """What there is to tell of these images, by name."""
        images = self.images if rows is None else self.images.rows(rows)
        site, read = self._sites(question, target, rows, images)
        x, draws = images.pixels, Draws(self.seed, images.keys)
        needs = _needs(question, self.model, site, images, draws)
        if question.looks_at_layer:
            needs["layer"] = read
        attributed = self._attributed(question, site, x, needs, rows)
        attribution = attributed.features.detach()
        delta = (
            completeness_delta(question.asked, site, x, attribution, **needs)
            if attributed.difference is None
            else row_sum(attribution) - attributed.difference
        )
        told = {
            "attribution": parts_of(attribution)[0],
            "convergence_delta": delta,
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

    def _sites(self, question: Question, target: Tensor, rows: Tensor | None, images: Images) -> tuple[Site, Site]:
        """Where the question is asked and where a plain pass is read for it, with what the first pass has told about both."""
        if self.logits is None or not question.is_aimed:
            sites = (make(question, self.model, self.explained, self.passes) for make in (site_of, site_read))
            return next(sites), next(sites)
        logits, point = self.logits, self.points.get(question)
        if rows is not None:
            target, logits = target[rows], logits[rows]
            point = point and Point(point.score[rows], point.features[rows], point.gradient[rows])
        explained = self.explained.aimed(target)

        @cache
        def score() -> Tensor:
            return explained.of(logits).to(images.pixels.dtype)

        asked, read = (make(question, self.model, explained, self.passes) for make in (site_of, site_read))
        tail = self.tails.get(str(question.at)) if rows is None and question.walks_from_layer else None
        known = Known(read, images.pixels, score, point, tail and tail.explaining(explained))
        return Known(asked, images.pixels, score) if question.looks_at_layer else known, known

    def _attributed(
        self, question: Question, site: Site, x: Features, needs: dict[str, Any], rows: Tensor | None
    ) -> Attributed:
        """Questions that differ only in what they make of the same noisy copies have these made once."""
        if question in self.led:
            led = self.led[question]
            return led if rows is None else led.rows(rows)
        same = question.of_any_kind
        if question.noise is None or (self.awaited[same] < 2 and same not in self.moments):
            return question.asked.attributed(site, x, **needs)
        tunnel = question.noise.around(question.method)
        moments = self.moments.pop(same) if same in self.moments else tunnel.moments(site, x, **needs)
        self.awaited[same] -= 1
        if self.awaited[same]:
            self.moments[same] = moments
        return Attributed(tunnel.reduced(*moments))


def leading(
    question: Question, model: nn.Module, explained: Score, images: Images, labels: Tensor, passes: Passes, seed: int
) -> Attributed:
    """Answer a question whose pass is the prediction's too."""
    aiming = Aiming(model=model, dtype=explained.dtype, aim=Aim(question.target), labels=labels)
    site = site_of(question, model, aiming, passes)
    needs = _needs(question, model, site, images, Draws(seed, images.keys))
    return question.method.attributed(site, images.pixels, **needs)


def recorded(
    question: Question, model: nn.Module, explained: Score, images: Images, passes: Passes
) -> tuple[Tail, Tensor] | None:
    """The tail that a question walks along, with what comes before it recorded, and the logits; None where that isn't safe."""
    tail = Tail(Layer(explained, place_of(model, str(question.at)), passes), images.pixels)
    try:
        return tail, tail.logits()
    except FrontDiffers:  # the question meets this too, and goes another way
        return None


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
