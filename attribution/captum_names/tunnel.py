"""Means over noisy copies: Captum's NoiseTunnel around any attribution object, and the Gradient SHAP family made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attribution.captum_names import forms
from attribution.captum_names.asked import Where
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.formula import Arguments, Formula
from attribution.errors import nearest
from attribution.methods.gradient_shap import GradientShap as OnePoint
from attribution.methods.noise_tunnel import KINDS
from attribution.noise import Draws

Ask = Callable[[dict[str, Any]], Any]
"""What gives the attributions of the copies, and their deltas where these are asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tunnel:
    """How each row is copied, and how the copies' attributions become one."""

    kind: str = "smoothgrad"
    samples: int
    samples_per_call: int | None = None
    stdevs: Any
    draws_baselines: bool = False
    draws: Draws

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArgumentError(f"nt_type {self.kind!r} not found; {nearest(str(self.kind), KINDS)}")
        if self.samples < 1:
            raise ArgumentError(f"{self.samples} samples are too few")

    def through(self, ask: Ask, inputs: forms.Inputs, arguments: Mapping[str, Any]) -> Any:
        """Ask for the copies, a few of each row at a time, and reduce what comes back."""
        moments = None
        deltas = []
        for samples in self._calls():
            answer = ask(self._copied(inputs, arguments, samples))
            if arguments.get("return_convergence_delta"):
                answer, delta = answer
                deltas.append(delta.reshape(-1, len(samples)))
            own = Moments.of(answer, len(samples))
            moments = own if moments is None else moments.joined(own)
        assert moments is not None
        result = moments.reduced(self.kind)
        return (result, torch.cat(deltas, 1).flatten()) if deltas else result

    def _calls(self) -> Iterator[range]:
        step = min(self.samples, self.samples_per_call or self.samples)
        for start in range(0, self.samples, step):
            yield range(start, min(start + step, self.samples))

    def _copied(self, inputs: forms.Inputs, arguments: Mapping[str, Any], samples: range) -> dict[str, Any]:
        """The arguments of one call: the copies of a row stand one after the other."""
        copied = forms.repeated(arguments, len(inputs), len(samples))
        if self.draws_baselines and arguments.get("baselines") is not None:
            copied["baselines"] = self._drawn(forms.read_distribution(arguments["baselines"], inputs), samples)
        return {**copied, "inputs": self._noisy(inputs, samples)}

    def _noisy(self, inputs: forms.Inputs, samples: range) -> forms.Tensors:
        noisy = tuple(
            _with_noise(part, stdev, self.draws.within(number), samples)
            for number, (part, stdev) in enumerate(
                zip(inputs.parts, forms.read_stdevs(self.stdevs, inputs), strict=True)
            )
        )
        return noisy if inputs.is_tuple else noisy[0]

    def _drawn(self, distribution: tuple[Tensor, ...], samples: range) -> tuple[Tensor, ...]:
        """For each copy a reference row, each input's on its own."""
        drawn = []
        for number, rows in enumerate(distribution):
            draws = self.draws.within(number)
            choice = torch.stack([draws.integers(len(rows), sample) for sample in samples], 1)  # (N, samples)
            drawn.append(rows[choice.flatten().to(rows.device)])
        return tuple(drawn)


def _with_noise(part: Tensor, stdev: float, draws: Draws, samples: range) -> Tensor:
    copies = part.detach().repeat_interleave(len(samples), 0)
    if stdev == 0:
        return copies
    like = part if part.is_floating_point() else part.float()
    noise = torch.stack([draws.normal(like, sample) for sample in samples], 1)  # (N, samples, ...)
    return copies + stdev * noise.flatten(0, 1)


@dataclass(frozen=True)
class Moments:
    """The mean of `count` samples and the sum of their squared distances from it, which no cancellation makes negative."""

    count: int
    mean: Any
    squares: Any
    like: Any

    @classmethod
    def of(cls, attribution: Any, count: int) -> Moments:
        """The moments of copies that stand one after the other.  (N * count, ...)"""
        samples = forms.each(lambda part: _accumulated(part).reshape(-1, count, *part.shape[1:]), attribution)
        mean = forms.each(lambda part: part.mean(1), samples)
        squares = forms.each(lambda part, centre: ((part - centre.unsqueeze(1)) ** 2).sum(1), samples, mean)
        return cls(count, mean, squares, attribution)

    def joined(self, other: Moments) -> Moments:
        """The moments of both (Chan et al. 1979)."""
        share = other.count / (self.count + other.count)
        step = forms.each(torch.sub, other.mean, self.mean)
        mean = forms.each(lambda part, far: part + share * far, self.mean, step)
        both = forms.each(torch.add, self.squares, other.squares)
        squares = forms.each(lambda part, far: part + self.count * share * far**2, both, step)
        return Moments(self.count + other.count, mean, squares, other.like)

    def reduced(self, kind: str) -> Any:
        """Smoothgrad, smoothgrad_sq or vargrad, in the precision that the attributions had."""
        variance = forms.each(lambda part: part / self.count, self.squares)
        square = forms.each(lambda spread, centre: spread + centre**2, variance, self.mean)
        result = {"smoothgrad": self.mean, "smoothgrad_sq": square, "vargrad": variance}[kind]
        return forms.each(lambda part, like: part.to(like.dtype), result, self.like)


def _accumulated(part: Tensor) -> Tensor:
    return part.float() if part.dtype in (torch.float16, torch.bfloat16) else part


def noise_tunnel(owner: Any, given: Arguments) -> Any:
    """The mean, mean square or variance of a method's attributions over copies of the inputs with normal noise."""
    inputs = forms.read_inputs(given["inputs"])
    tunnel = Tunnel(
        kind=given["nt_type"],
        samples=given["nt_samples"],
        samples_per_call=given["nt_samples_batch_size"],
        stdevs=given["stdevs"],
        draws_baselines=given["draw_baseline_from_distrib"],
        draws=forms.read_draws(given["seed"], len(inputs)),
    )
    arguments = dict(given.get("kwargs", {}))
    attribute = owner.attribution_method.attribute
    if given["seed"] is not None and "seed" in inspect.signature(attribute).parameters:
        arguments["seed"] = given["seed"]
    return tunnel.through(lambda copied: attribute(**copied), inputs, arguments)


RANDOM_POINT = Formula(method=partial(OnePoint, n_samples=1))
"""(x - baseline) times the gradient at one random point between them."""


@dataclass(frozen=True)
class GradientShap:
    """The mean of (x - baseline) times the gradient at random points between random baselines and noisy copies of x."""

    where: Where

    def __call__(self, owner: Any, given: Arguments) -> Any:
        inputs = forms.read_inputs(given["inputs"])
        tunnel = Tunnel(
            samples=given["n_samples"],
            stdevs=given["stdevs"],
            draws_baselines=True,
            draws=forms.read_draws(given["seed"], len(inputs)),
        )
        point = replace(RANDOM_POINT, where=self.where)
        return tunnel.through(lambda copied: point(owner, copied), inputs, given)
