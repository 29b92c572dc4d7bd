"""The gradient of a convolution of few channels that steps over its input, as one convolution by step 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attribution.derived import Derived
from attribution.geometry import Geometry

FEW = 4
"""Channels of the input: a library made for tens of them leaves most of its registers empty."""

Convolve = Callable[[Tensor, Tensor, Geometry], Tensor]
"""A convolution of (n, c, h, w) by (k, c, h', w')."""


@dataclass(frozen=True, slots=True, eq=False)
class Phases:
    """The gradient of a convolution that steps over its input by s, as one convolution by step 1.

    The input's pixels s i + p, for each phase p < s, get theirs from the same outputs i + d: input channels and phases together
    are the channels of a convolution of the output's gradient (Shi et al. 2016, arXiv:1609.05158, has the same for upsampling).
    A library's own gradient of three channels takes several times as long as the forward pass.
    """

    kernel: Tensor
    """(s s' c, k, n, n'): of each phase and channel, the weights of the outputs from `first` on."""
    first: tuple[int, int]
    """The first output i + d that a pixel of block i has part in."""
    steps: tuple[int, int]

    @classmethod
    def of(cls, weight: Tensor, geometry: Geometry) -> Phases:
        """Sort the kernel's places by the phase of the pixels that they meet.  weight (k, c, h, w)"""
        counts, firsts = list[int](), list[int]()
        for size, step, padding in zip(weight.shape[2:], geometry.stride, geometry.padding, strict=True):
            # Pixel s i + p meets output i + d at the kernel's place p + padding - s d.
            first, last = -((size - 1 - padding) // step), (step - 1 + padding) // step
            count = last - first + 1
            before = step * last - padding
            weight = functional.pad(weight.transpose(2, 3), (before, count * step - size - before))
            counts.append(count)
            firsts.append(first)
        (down, across), (s, t) = counts, (geometry.stride[0], geometry.stride[1])
        # -> (k, c, place d, phase, place d', phase'), places counted from the last output back
        parts = weight.reshape(*weight.shape[:2], down, s, across, t).permute(3, 5, 1, 0, 2, 4).flip(4, 5)
        kernel = parts.reshape(-1, weight.shape[0], down, across)
        # Without the outputs that no pixel has part in, as where a padding that was folded has put zeros around the kernel.
        rows, columns = (kernel.ne(0).flatten(0, 1).any(0).any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        if not rows:
            rows = columns = [0]
        kernel = kernel[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        met = firsts[0] + rows[0], firsts[1] + columns[0]
        return cls(kernel.contiguous(memory_format=torch.channels_last), met, (s, t))

    def pulled_back(self, gradient: Tensor, shape: torch.Size, convolve: Convolve) -> Tensor:
        """The input's gradient, from that of the output.  -> shape"""
        blocks, pads, starts = list[int](), list[int](), list[int]()
        each = zip(shape[2:], gradient.shape[2:], self.kernel.shape[2:], self.first, self.steps, strict=True)
        for extent, outputs, count, first, step in each:
            needed = -(-extent // step)
            pad = max(-first, needed - 1 + first + count - outputs, 0)  # on both sides, for the wider one
            blocks.append(needed)
            pads.append(pad)
            starts.append(pad + first)
        found = convolve(gradient, self.kernel, Geometry((1, 1), (pads[0], pads[1]), (1, 1), 1))
        (top, left), (down, across), (s, t) = starts, blocks, self.steps
        found = found[:, :, top : top + down, left : left + across].permute(0, 2, 3, 1)
        pixels = found.reshape(-1, down, across, s, t, shape[1]).transpose(2, 3)
        return pixels.reshape(-1, down * s, across * t, shape[1])[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)


phases_of = Derived(Phases.of)


def has_phases(weight: Tensor, geometry: Geometry) -> bool:
    """Few channels, stepped over: where one convolution for all phases pays."""
    is_plain = geometry.groups == 1 and tuple(geometry.dilation) == (1, 1)
    return is_plain and weight.shape[1] <= FEW and max(geometry.stride) > 1
