"""What Captum's perturbation classes do when they are asked: a Method over regions of the inputs, or of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of
from attribution.captum_names import forms
from attribution.captum_names.answers import Asking, packed, unpacked
from attribution.captum_names.asked import Asked, Where
from attribution.captum_names.errors import ArgumentError
from attribution.captum_names.formula import Arguments, made
from attribution.captum_names.progress import progress
from attribution.coalitions import credited, flat_rows, region_counts
from attribution.method import Method
from attribution.methods.shapley_value_sampling import ShapleyValueSampling
from attribution.methods.shapley_values import ShapleyValues
from attribution.site import Site


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Ask a Method over regions. Several answers of a row stand as rows of their own, or `keeps_outputs` as they are."""

    method: Callable[..., Method]
    where: Where = "input"
    renamed: Mapping[str, str] = field(default_factory=dict)
    keeps_outputs: bool = False
    one_output: bool = False
    keeps_whole_numbers: bool = False
    """Differences of whole numbers are whole, means are not."""

    def __call__(self, owner: Any, given: Arguments) -> Any:
        asked = Asked(owner, given, self.where)
        method = made(self.method, {**vars(owner), **given}, self.renamed)
        if self.where == "layer":
            return self._of_layer(asked, method)
        mask = read_mask(given.get("feature_mask"), asked.inputs)
        if self.where == "neuron":
            return asked.packed(method.attribute(asked.site, asked.x, **asked.needs(method.needs()), mask=mask))
        return self._of_outputs(asked, method, mask)

    def _of_outputs(self, asked: Asked, method: Method, mask: Features) -> Any:
        """Once for each of the forward function's answers."""
        # Rows that share memory would be asked as one image, without the arguments that tell them apart
        x, needs = asked.x.contiguous(), asked.needs(method.needs()) | {"mask": mask}
        if "baseline" in needs:
            needs["baseline"] = needs["baseline"].contiguous()
        asking = asking_of(asked, mask)
        if self.one_output and asking.columns != 1:
            raise ArgumentError(f"the forward function must return one number for each row, not {asking.columns}")
        with progress(asked.owner, calls(method, mask), is_shown=asked.given["show_progress"]) as tick:
            if asking.is_by_row or "baseline" not in needs:
                columns = [method.attribute(site, x, **needs) for site in asking.sites(tick)]
            else:
                columns = _together(asking, method, x, needs, tick)
        answer = asking.laid_out(columns, keeps_outputs=self.keeps_outputs)
        same_kind = [part.dtype for part in parts_of(needs.get("baseline", x))] == [part.dtype for part in parts_of(x)]
        whole = self.keeps_whole_numbers and same_kind and not asking.example.is_floating_point()
        return asked.packed(answer.to(asking.example.dtype) if whole else answer)

    def _of_layer(self, asked: Asked, method: Method) -> Any:
        """The layer's activation takes the inputs' place, and what follows the layer that of the model."""
        activation = asked.site.features(asked.x)
        layer = forms.Inputs(parts_of(activation), is_tuple=True)
        needs: dict[str, Any] = {"mask": read_mask(asked.given.get("layer_mask"), layer)}
        if "baseline" in method.needs():
            needs["baseline"] = forms.read_baseline(asked.given["layer_baselines"], layer)
        return asked.packed(method.attribute(asked.site.tail(asked.x), activation, **needs))


def _together(
    asking: Asking, method: Method, x: Features, needs: dict[str, Any], tick: Callable[[], None]
) -> list[Features]:
    """Methods that compose rows of their own see all rows as one, where all rows are answered together."""
    own = {name: need.rows(torch.tensor([0])) if name == "draws" else packed(need) for name, need in needs.items()}
    return [unpacked(method.attribute(site, packed(x), **own)) for site in asking.sites(tick, packed=True)]


def calls(method: Method, mask: Features) -> int:
    """How often a method asks the forward function, for the display of progress."""
    regions = 1 + max(int(part.max()) for part in parts_of(mask))
    if isinstance(method, ShapleyValueSampling):
        return 2 + method.n_samples * (regions - 1)
    if isinstance(method, ShapleyValues):
        return 1 << regions
    samples: int = getattr(method, "n_samples", 1 + regions)
    return samples


def asking_of(asked: Asked, mask: Features | None) -> Asking:
    """The forward function with its first answer, checked against what else was given."""
    given, inputs, per_call = asked.given, asked.inputs, asked.given.get("perturbations_per_eval", 1)
    if not isinstance(per_call, int) or per_call < 1:
        raise ArgumentError(f"perturbations_per_eval={per_call!r} is no number of perturbations")
    target = forms.read_target(given.get("target"), len(inputs), inputs.parts[0].device)
    asking = Asking(
        asked.owner.forward_func, inputs, target, forms.read_arguments(given.get("additional_forward_args"))
    )
    if not asking.is_by_row and per_call != 1:
        raise ArgumentError("perturbations_per_eval must be 1 where the forward function answers once for all rows")
    if not asking.is_by_row and mask is not None and any(len(part) != 1 for part in parts_of(mask)):
        raise ArgumentError("one mask for all rows is needed where the forward function answers once for all rows")
    return asking


def read_mask(feature_mask: Any, inputs: forms.Inputs) -> Features:
    """A number for each feature's region, equal in several inputs where these belong together; None: each its own.

    -> (1 or N, ...) int64, each row's numbered from 0 without gaps
    """
    masks = given_mask(feature_mask, inputs)
    rows = max(len(mask) for mask in masks)
    flat = torch.cat([flat_rows(mask.expand(rows, *mask.shape[1:])) for mask in masks], 1)
    # Each row's own numbers: a row's answer must not depend on the masks of others
    numbers = torch.stack([torch.unique(row, return_inverse=True)[1] for row in flat])
    ends = accumulate(mask[0].numel() for mask in masks)
    return bundled(
        [
            numbers[:, end - mask[0].numel() : end].reshape(rows, *mask.shape[1:])
            for mask, end in zip(masks, ends, strict=True)
        ]
    )


def given_mask(feature_mask: Any, inputs: forms.Inputs) -> list[Tensor]:
    """The numbers as they were given, or one for each feature of all inputs.  -> each (1 or N, ...)"""
    if feature_mask is None:
        ends = list(accumulate(part[:1].numel() for part in inputs.parts))
        return [
            torch.arange(end - part[:1].numel(), end, device=part.device).reshape(part[:1].shape)
            for end, part in zip(ends, inputs.parts, strict=True)
        ]
    masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    if len(masks) != len(inputs.parts):
        raise ArgumentError(f"{len(masks)} feature mask(s) for {len(inputs.parts)} input(s): give one for each")
    return [_fitted(mask, part) for mask, part in zip(masks, inputs.parts, strict=True)]


def _fitted(mask: Tensor, part: Tensor) -> Tensor:
    """A mask with as many dimensions as its input."""
    own = mask.reshape(*[1] * (part.dim() - mask.dim()), *mask.shape).to(part.device).long()
    if own.dim() != part.dim() or any(one not in (1, all_) for one, all_ in zip(own.shape, part.shape, strict=True)):
        raise ArgumentError(f"a mask of shape {tuple(mask.shape)} does not fit an input of shape {tuple(part.shape)}")
    return own


@dataclass(frozen=True)
class Permutation(Method, listed=False):
    """The fall of the score when a region takes its values from other rows of the batch."""

    paper = "Breiman 2001, Random Forests, sec. 10; Fisher et al. 2019, arXiv:1801.01489, eq. 3"
    permute: Callable[[Tensor, Tensor], Tensor]

    def attribute(self, site: Site, x: Features, mask: Features) -> Features:
        whole, falls = site.score(x), []
        for region in range(int(region_counts(mask, len(x)).max())):
            pairs = zip(parts_of(x), parts_of(mask), strict=True)
            falls.append(whole - site.score(bundled([self._permuted(part, own == region) for part, own in pairs])))
        return credited(torch.stack(falls, 1), mask, like=x)

    def _permuted(self, part: Tensor, where: Tensor) -> Tensor:
        return self.permute(part, where) if bool(where.any()) else part


def permute_rows(x: Tensor, feature_mask: Tensor) -> Tensor:
    """The features of the mask from another row each time, in an order that is not the rows' own."""
    count = len(x)
    if count < 2:
        raise ArgumentError("one row has nothing to be permuted with: give at least two")
    draws = forms.read_draws(None, count)
    generator = draws.generator(draws.keys[0], "permutation", 0)
    order = torch.arange(count)
    while bool((order == torch.arange(count)).all()):
        order = torch.randperm(count, generator=generator)
    return torch.where(feature_mask, x[order.to(x.device)], x)
