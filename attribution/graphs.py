"""Passes captured as CUDA graphs: their kernels are recorded once and then replayed without Python between them.

Launching the kernels of a small model's pass takes the host longer than the device needs to run them. A pass is captured
when it comes up for the second time with the same key and shapes, and only kept if its replay tells what the pass itself
told. A model that looks at values in Python makes the host wait for the device, which CUDA refuses while it records:
such a pass stays as it is, and `refused` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribution.bundle import Features, bundled, parts_of

logger = logging.getLogger(__name__)

Told = tuple[Features, ...]
"""What a pass tells: score, features, gradient, logits, ..., each with a row for each row of its inputs."""

OnePass = Callable[..., Told]
"""A pass as a function of tensors alone, which it must neither keep nor write into."""

TOLERANCE = 1e-4
"""How far a replay may be from the pass itself, relative to its norm: where the device's algorithms are not fixed, two runs
of the same pass in float32 differ by up to about 1e-6, one flipped rectifier by 1e-5; another function by far more."""


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A recorded pass: replaying it reads `inputs` and writes `outputs`."""

    inputs: tuple[Tensor, ...]
    outputs: Told
    replay: Callable[[], None]


Capture = Callable[[OnePass, Sequence[Tensor]], Captured]


class Graphs:
    """The captured passes of one model on one device, for the one thread that computes there."""

    def __init__(self, capture: Capture | None = None) -> None:
        self._capture = capture or CudaCapture()
        self._met: set[Hashable] = set()
        self._captured: dict[Hashable, _Recording | None] = {}  # None: refused
        self.known: dict[Hashable, Any] = {}
        """What else there is to remember of a pass, by its key, as long as recordings are."""
        self.refused: list[str] = []

    def run(self, key: Hashable, one_pass: OnePass, *inputs: Tensor) -> Told:
        """What `one_pass` tells of the inputs; `key` names everything else that it depends on."""
        form = (key, *((tensor.shape, tensor.dtype) for tensor in inputs))
        if (captured := self._captured.get(form)) is not None:
            return captured.replayed(inputs)
        told = one_pass(*inputs)
        if form in self._met and form not in self._captured:
            self._captured[form] = self._verified(one_pass, inputs, told)
        self._met.add(form)
        return told

    def clear(self) -> bool:
        """Give back the device memory that recordings hold; whether there were any."""
        held = any(captured is not None for captured in self._captured.values())
        self._captured.clear()
        self._met.clear()
        self.known.clear()
        return held

    def _verified(self, one_pass: OnePass, inputs: Sequence[Tensor], told: Told) -> _Recording | None:
        try:
            captured = _Recording(self._capture(one_pass, inputs))
            moved = _distance(captured.replayed(inputs), told)
        except Exception as error:  # noqa: BLE001  # whatever a recording dies of, the pass itself has just worked
            self._refuse(str(error).strip().split("\n", 1)[0])
            return None
        if moved <= TOLERANCE:
            return captured
        self._refuse(f"its replay is off by {moved:.1e}")
        return None

    def _refuse(self, reason: str) -> None:
        self.refused.append(reason)
        logger.warning("a pass was not captured: %s", reason)


class CudaCapture:
    """Records on a stream of its own; all recordings share one pool of memory, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, one_pass: OnePass, inputs: Sequence[Tensor]) -> Captured:
        own = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process copy and allocate meanwhile: only this one's calls must be such as can be recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = one_pass(*own)
        return Captured(own, outputs, graph.replay)


class _Recording:
    """A captured pass, and what its inputs are copies of."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._inputs = [_Input(own) for own in captured.inputs]

    def replayed(self, inputs: Sequence[Tensor]) -> Told:
        """What the pass tells of them."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.take(given)
        self._captured.replay()
        # The next replay overwrites them.
        return tuple(bundled([part.clone() for part in parts_of(output)]) for output in self._captured.outputs)


@dataclass(slots=True, eq=False)
class _Input:
    """A recording's own copy of an input. The steps of a path and the samples of a mean share all inputs but one."""

    own: Tensor
    given: Tensor | None = None
    """What it is a copy of, held so that its memory becomes nobody else's."""
    version: int = 0

    def take(self, given: Tensor) -> None:
        """Copy the input, unless that is there already."""
        if self.given is not None and self._holds(self.given, given):
            return
        self.own.copy_(given)
        self.given, self.version = given, given._version  # noqa: SLF001  # the documented counter has no public name

    def _holds(self, known: Tensor, given: Tensor) -> bool:
        """The same memory, which nobody has written into since; shape and dtype are the same of all inputs."""
        is_there = known.data_ptr() == given.data_ptr() and known.stride() == given.stride()
        return is_there and given._version == self.version  # noqa: SLF001  # as above


def _distance(ours: Told, theirs: Told) -> float:
    """The largest relative L2 distance of what two passes tell; integers such as targets must be equal."""
    pairs = zip(ours, theirs, strict=True)
    return max(
        _moved(part, other)
        for output, known in pairs
        for part, other in zip(parts_of(output), parts_of(known), strict=True)
    )


def _moved(ours: Tensor, theirs: Tensor) -> float:
    if torch.equal(ours, theirs):
        return 0.0
    if not ours.is_floating_point() or not torch.equal(ours.isfinite(), theirs.isfinite()):
        return float("inf")
    ours, theirs = (torch.nan_to_num(tensor.double(), 0, 0, 0) for tensor in (ours, theirs))
    scale = float(theirs.norm())
    return float((ours - theirs).norm()) / (scale or 1.0)
