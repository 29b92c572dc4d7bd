"""Answering questions about a model for a batch of images: the door through which everything outside uses the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attribution.baselines import Baselines, make_baselines, parse_baselines
from attribution.bundle import Features, parts_of
from attribution.errors import LayerError, nearest
from attribution.evaluate import Pass, evaluate
from attribution.hooks import Parts, Place, Visit, visiting
from attribution.images import Images, Normalisation
from attribution.method import completeness_delta
from attribution.methods.regional import Regional
from attribution.noise import Draws
from attribution.passes import Passes
from attribution.question import Neuron, Question
from attribution.score import NeuronScore, Score, neuron, refuse_training
from attribution.site import Known, Site
from attribution.tap import Tap
from attribution.target import Aim

__all__ = ["Answer", "Explanation", "Images", "Normalisation", "explain", "output_shape", "resolve"]


@dataclass(frozen=True, slots=True, eq=False)
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
    convergence_delta: Tensor | None
    """(N,) what the attributions add up to beyond what they explain, where the method promises completeness."""
    steps: Tensor | None
    """(N,) gradients taken, where the method decides that for each image."""
    seconds: float


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
    seed: int = 0,
    passes: Passes | None = None,
    rows_per_pass: int | None = None,
    score: Callable[[Any], Tensor] | None = None,
) -> Explanation:
    """Answer every question for every image; methods that can share one pass do.

    `score` maps the model's output to one number per image and takes the place of the target. Questions must be resolved.
    """
    refuse_training(model)
    passes = passes or Passes(rows_per_pass)
    explained = Score(model=model, read=score, dtype=_dtype_to_cast(model, images.pixels))
    shared = [question for question in questions if question.asked.reads_pass and question.is_aimed and score is None]
    sites = [_site(question, model, explained, passes) for question in shared]
    started = time.perf_counter()
    if score is None:
        seen = evaluate(
            sites, images.pixels, [Aim(q.target) for q in shared], images.labels, model=explained, passes=passes
        )
        best = seen.logits.float().softmax(1).max(1)
        prediction, probability = best.indices, best.values
    else:
        seen = None
        prediction = torch.full((len(images),), -1, device=images.pixels.device)
        probability = torch.full((len(images),), torch.nan, device=images.pixels.device)
    asking = _Asking(model, images, explained, passes, seen, seed)
    share = (time.perf_counter() - started) / max(1, len(shared))
    known = {id(question): (site, i) for i, (question, site) in enumerate(zip(shared, sites, strict=True))}
    return Explanation(
        prediction,
        probability,
        (asking.read(q, *known[id(q)], share) if id(q) in known else asking.ask(q) for q in questions),
    )


def resolve(question: Question, model: nn.Module, example: Tensor) -> Question:
    """Fill in what is automatic and check layers and neuron against the model.  example (1, C, H, W)"""
    at = question.at
    if at is None and question.of is None and "input" not in question.method.places:
        at = last_convolution(model, example)
    question = replace(question, at=at)
    explained = Score(model=model, dtype=_dtype_to_cast(model, example))
    for name in {at, question.of.layer if question.of else None} - {None}:
        with torch.no_grad(), Tap(_place(model, str(name), call=None)) as tap:
            explained.output(example)
        _ = tap.parts  # an error unless the layer was called once
    if question.of is not None:
        with torch.no_grad():
            _neuron(model, question.of, explained.dtype)(example)
    shape = _feature_shape(question, _site(question, model, explained, Passes()), example)
    question.method.map_shape(shape)
    if isinstance(question.method, Regional):
        question.method.mask(
            shape, Images(example, ("example",), torch.full((1,), -1), mask=torch.zeros(1, *shape).long())
        )
    return question


def output_shape(question: Question, model: nn.Module, example: Tensor) -> tuple[int, ...]:
    """The shape of one image's attribution, from one forward pass at most.  example (1, C, H, W)"""
    site = _site(question, model, Score(model=model, dtype=_dtype_to_cast(model, example)), Passes())
    return question.method.map_shape(_feature_shape(question, site, example))


def _feature_shape(question: Question, site: Site, example: Tensor) -> tuple[int, ...]:
    parts = parts_of(site.features(example))
    if len(parts) != 1:
        raise LayerError(f"layer {question.at!r} has {len(parts)} tensors: name a layer inside it")
    return tuple(parts[0].shape[1:])


def last_convolution(model: nn.Module, example: Tensor) -> str:
    """The name of the convolution that is called last and still has places to tell apart."""
    called: list[str] = []

    def noting(name: str) -> Visit:
        def note(parts: Parts) -> None:
            if parts[0].shape[-1] * parts[0].shape[-2] > 1:
                called.append(name)

        return note

    with torch.no_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                hooks.enter_context(visiting(Place(module), noting(name)))
        Score(model=model, dtype=_dtype_to_cast(model, example)).output(example)
    if not called:
        raise LayerError("the model has no convolution with places to tell apart: name a layer with at=")
    return called[-1]


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """What all questions about one batch of images share."""

    model: nn.Module
    images: Images
    explained: Score
    passes: Passes
    seen: Pass | None
    seed: int

    def read(self, question: Question, site: Site, number: int, seconds: float) -> Answer:
        """Answer from the shared pass."""
        assert self.seen is not None
        target, point = self.seen.targets[number], self.seen.points[number]
        x = self.images.pixels
        attribution = question.method.attribute(Known(site, x, point.score, point), x)
        return self._answer(question, attribution, answered=target >= 0, target=target, delta=None, seconds=seconds)

    def ask(self, question: Question) -> Answer:
        """Answer with passes of its own, for the images that have a target."""
        started = time.perf_counter()
        target = self._target(question)
        answered = (
            torch.ones_like(target, dtype=torch.bool) if not question.is_aimed or self.seen is None else target >= 0
        )
        images = self.images if bool(answered.all()) else self.images.rows(answered.nonzero()[:, 0])
        if not len(images):
            shape = output_shape(question, self.model, self.images.pixels[:1])
            nothing = self.images.pixels.new_full((len(self.images), *shape), torch.nan)
            return self._answer(question, nothing, answered=answered, target=target, delta=None, seconds=0.0)
        explained = self.explained if self.seen is None else self.explained.aimed(target[answered])
        attribution, delta = self._attribute(question, images, explained)
        if len(images) < len(self.images):
            attribution, delta = _spread(attribution, answered), None if delta is None else _spread(delta, answered)
        seconds = time.perf_counter() - started
        return self._answer(question, attribution, answered=answered, target=target, delta=delta, seconds=seconds)

    def _attribute(self, question: Question, images: Images, explained: Score) -> tuple[Tensor, Tensor | None]:
        x = images.pixels
        site = _site(question, self.model, explained, self.passes)
        if self.seen is not None and question.is_aimed and len(images) == len(self.images):
            site = Known(site, x, explained.of(self.seen.logits).to(x.dtype))
        needs = _needs(question, site, images, Draws(self.seed, images.keys))
        attribution = question.asked.attribute(site, x, **needs)
        delta = completeness_delta(question.asked, site, x, attribution, **needs)
        return parts_of(attribution)[0], delta

    def _target(self, question: Question) -> Tensor:
        if not question.is_aimed or self.seen is None:
            return torch.full((len(self.images),), -1, device=self.images.pixels.device)
        return Aim(question.target).choose(self.seen.logits, self.images.labels)

    def _answer(
        self,
        question: Question,
        attribution: Features,
        *,
        answered: Tensor,
        target: Tensor,
        delta: Tensor | None,
        seconds: float,
    ) -> Answer:
        tensor = parts_of(attribution)[0]
        probability = tensor.new_full((len(target),), torch.nan)
        if self.seen is not None and question.is_aimed:
            chosen = self.seen.logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0].to(probability)
            probability = torch.where(answered, chosen, probability)
        if not bool(answered.all()):
            tensor = torch.where(answered.reshape(-1, *([1] * (tensor.dim() - 1))), tensor, torch.nan)
        return Answer(question, tensor.detach(), answered, target, probability, delta, None, seconds)


def _needs(question: Question, site: Site, images: Images, draws: Draws) -> dict[str, Any]:
    """What the method asks for, by name."""
    wanted = question.asked.needs() | question.method.needs()
    needs: dict[str, Any] = {"draws": draws} if "draws" in wanted else {}
    if isinstance(question.method, Regional):
        shape = _feature_shape(question, site, images.pixels[:1])
        needs["mask"] = question.method.mask(shape, images)
    if question.baseline is not None:
        baselines: Baselines = make_baselines(parse_baselines(question.baseline), images, draws)
        needs |= {"baseline": baselines.members[0]} if "baseline" in wanted else {"baselines": baselines}
    return needs


def _site(question: Question, model: nn.Module, explained: Score, passes: Passes) -> Site:
    at = None if question.at is None else _place(model, question.at)
    of = None if question.of is None else _neuron(model, question.of, explained.dtype)
    return question.method.site(explained, at, of, passes)


def _neuron(model: nn.Module, wanted: Neuron, dtype: torch.dtype | None) -> NeuronScore:
    return replace(neuron(model, _place(model, wanted.layer), wanted.index), dtype=dtype)


def _place(model: nn.Module, name: str, call: int | None = 0) -> Place:
    modules = dict(model.named_modules())
    if name not in modules or not name:
        raise LayerError(f"layer {name!r} not found; {nearest(name, filter(None, modules))} (see: cli.py layers MODEL)")
    return Place(modules[name], call=call)


def _dtype_to_cast(model: nn.Module, pixels: Tensor) -> torch.dtype | None:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if parameter is None or parameter.dtype == pixels.dtype else parameter.dtype


def _spread(values: Tensor, answered: Tensor) -> Tensor:
    """Values of the answered images among NaN for the others."""
    whole = values.new_full((len(answered), *values.shape[1:]), torch.nan)
    whole[answered] = values
    return whole
