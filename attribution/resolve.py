"""Filling in what a question leaves open, and finding its layers and neurons in the model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from attribution.bundle import parts_of
from attribution.errors import LayerError, nearest
from attribution.hooks import Parts, Place, Visit, visiting
from attribution.images import Images
from attribution.layer import Layer
from attribution.methods.regional import Regional
from attribution.passes import Passes
from attribution.question import Neuron, Question
from attribution.score import NeuronScore, Score, neuron
from attribution.site import Site
from attribution.tap import Tap


def resolve(question: Question, model: nn.Module, example: Tensor) -> Question:
    """Fill in what is automatic and check layers and neuron against the model.  example (1, C, H, W)"""
    at = question.at
    if at is None and question.of is None and "input" not in question.method.places:
        at = last_convolution(model, example)
    question = replace(question, at=at)
    explained = Score(model=model, dtype=dtype_to_cast(model, example))
    for name in {at, question.of.layer if question.of else None} - {None}:
        with torch.no_grad(), Tap(place_of(model, str(name), call=None)) as tap:
            explained.output(example)
        _ = tap.parts  # an error unless the layer was called once
    if question.of is not None:
        with torch.no_grad():
            _neuron(model, question.of, explained.dtype)(example)
    shape = feature_shape(question, site_of(question, model, explained, Passes()), example)
    question.method.map_shape(shape)  # an error where the method can't read such a layer
    if isinstance(question.method, Regional):
        some_mask = torch.zeros(1, *shape, dtype=torch.int64)
        question.method.mask(shape, Images(example, ("example",), torch.full((1,), -1), mask=some_mask))
    return question


def output_shape(question: Question, model: nn.Module, example: Tensor) -> tuple[int, ...]:
    """The shape of one image's attribution, from one forward pass at most.  example (1, C, H, W)"""
    site = site_of(question, model, Score(model=model, dtype=dtype_to_cast(model, example)), Passes())
    return question.method.map_shape(feature_shape(question, site, example))


def feature_shape(question: Question, site: Site, example: Tensor) -> tuple[int, ...]:
    """The shape of what is credited, of one image."""
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
        Score(model=model, dtype=dtype_to_cast(model, example)).output(example)
    if not called:
        raise LayerError("the model has no convolution with places to tell apart: name a layer with at=")
    return called[-1]


def site_of(question: Question, model: nn.Module, explained: Score, passes: Passes) -> Site:
    """Where the question is asked."""
    at = None if question.at is None else place_of(model, question.at)
    of = None if question.of is None else _neuron(model, question.of, explained.dtype)
    return question.method.site(explained, at, of, passes)


def site_read(question: Question, model: nn.Module, explained: Score, passes: Passes) -> Site:
    """Where a plain pass is read for it: where it is asked, or at the layer that has a say in it."""
    if question.looks_at_layer:
        return Layer(explained, place_of(model, str(question.at)), passes)
    return site_of(question, model, explained, passes)


def _neuron(model: nn.Module, wanted: Neuron, dtype: torch.dtype | None) -> NeuronScore:
    return replace(neuron(model, place_of(model, wanted.layer), wanted.index), dtype=dtype)


def place_of(model: nn.Module, name: str, call: int | None = 0) -> Place:
    """The layer of this name; of several calls the first, None where there must be one only."""
    try:
        module = model.get_submodule(name or "no name")
    except AttributeError:
        names = filter(None, dict(model.named_modules()))
        raise LayerError(f"layer {name!r} not found; {nearest(name, names)} (see: cli.py layers MODEL)") from None
    return Place(module, call=call)


def dtype_to_cast(model: nn.Module, pixels: Tensor) -> torch.dtype | None:
    """What the model computes in, where that isn't the pixels' own precision."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if parameter is None or parameter.dtype == pixels.dtype else parameter.dtype
