"""One pass, many readers: prediction, gradients and activations from a single forward and backward."""

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.gradients import as_leaf, at_least_float32, gradients_of
from attribution.graphs import Told
from attribution.layer import Layer
from attribution.passes import Passes, Rows
from attribution.score import Score, logits_of
from attribution.site import Input, Point, Site
from attribution.tap import Tap, accumulated
from attribution.target import Aim


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What one pass over the images told: logits (N, classes), and for each site the Point."""

    logits: Tensor
    points: tuple[Point, ...]


def evaluate(
    sites: Sequence[Site],
    x: Features,
    aims: Sequence[Aim],
    labels: Tensor,
    *,
    model: Score,
    passes: Passes | None = None,
) -> Pass:
    """Ask several Input and Layer sites of one model in one forward, with one backward for each different aim.

    The targets are chosen from the same logits. Without sites this is the plain prediction, without gradients.
    """
    passes = passes or Passes()
    key = _key(sites, aims, model)
    if all(isinstance(site, Input) for site in sites):
        model = model.computed_by(passes.compiled)

    def one_pass(rows: Rows) -> Told:
        graphs = passes.capturing(key, x)
        if graphs is None:
            return told_of(model.rows(rows), x[rows], labels[rows])
        read = [labels[rows]] if any(aim.is_label for aim in aims) else []
        return graphs.run(key, partial(told_of, model), x[rows], *read)

    def told_of(here: Score, x: Features, labels: Tensor = labels) -> Told:
        with ExitStack() as taps, torch.set_grad_enabled(bool(sites)):
            opened = [
                taps.enter_context(Tap(site.place, grad=True)) if isinstance(site, Layer) else None for site in sites
            ]
            leaf = as_leaf(x) if any(isinstance(site, Input) for site in sites) else x
            output = here.output(leaf)
            logits = logits_of(output)
            credited = [leaf if tap is None else bundled(tap.parts) for tap in opened]
            gradients: list[tuple[Tensor, Features]] = [(logits, logits)] * len(sites)
            distinct = list(dict.fromkeys(aims))
            for number, aim in enumerate(distinct):
                mine = [i for i, other in enumerate(aims) if other == aim]
                target = aim.choose(logits.detach(), labels).clamp(0, logits.shape[1] - 1)
                score = replace(here, target=target).of(output)
                wanted = [part for i in mine for part in parts_of(credited[i])]
                with passes.backward():
                    found = iter(gradients_of(score, wanted, retain_graph=number + 1 < len(distinct)))
                for i in mine:
                    gradients[i] = (score.detach(), bundled([next(found) for _ in parts_of(credited[i])]))
        told: list[Features] = [logits.detach()]
        for site, features, (score, gradient) in zip(sites, credited, gradients, strict=True):
            told += [accumulated(score), at_least_float32(gradient), *site.telling(features)]
        return tuple(told)

    logits, *told = passes.over(len(x), one_pass)
    points = []
    for site in sites:
        score, gradient, *told = told
        features, others = site.credited(x, told)
        told = list(others)
        points.append(Point(parts_of(score)[0], features, gradient))
    return Pass(parts_of(logits)[0], tuple(points))


def _key(sites: Sequence[Site], aims: Sequence[Aim], model: Score) -> Hashable:
    """What such a pass depends on beside x and the labels; None where there is more to it."""
    keys = (model.key, *(site.key for site in sites))
    return None if None in keys else ("evaluate", keys, tuple(aims))
