"""Between host and device: pixels go there while an earlier shard is computed, results come back while a later one is."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Lanes:
    """Two lanes of copies beside the computing. On a CPU there is nothing to copy and nothing to wait for."""

    def __init__(self, device: torch.device, cuda: "Cuda | None" = None) -> None:
        self.device = device
        self.cuda = cuda or (Cuda(device) if device.type == "cuda" else None)
        if self.cuda is not None:
            self._there, self._back = self.cuda.stream(), self.cuda.stream()

    def over(self, pixels: np.ndarray) -> "Arrival":
        """Send pixels to the device; whoever computes takes them from the Arrival."""
        if self.cuda is None:
            return Arrival(torch.from_numpy(np.array(pixels)))  # Ray's arrays are read-only views; torch wants its own
        pinned = self.cuda.pinned(pixels.shape, torch.uint8)
        pinned.numpy()[...] = pixels
        with self.cuda.within(self._there):
            there = self.cuda.empty(pixels.shape, torch.uint8)
            self.cuda.copy(there, pinned)
            return Arrival(there, self.cuda, self.cuda.event(self._there))

    def back(self, results: Mapping[str, Tensor]) -> "Landing":
        """Send results to the host once they are computed; the computing goes on. They may not be changed afterwards."""
        if self.cuda is None:
            return Landing(results)
        computed = self.cuda.event(self.cuda.current())
        with self.cuda.within(self._back):
            self.cuda.wait(self._back, computed)
            landed = {}
            for name, result in results.items():
                landed[name] = self.cuda.pinned(result.shape, result.dtype)
                self.cuda.copy(landed[name], result)
                self.cuda.held_by(result, self._back)
            return Landing(landed, self.cuda, self.cuda.event(self._back))

    def moment(self) -> Any:
        """Now, by the device's clock: when it has done what it was asked so far."""
        return time.perf_counter() if self.cuda is None else self.cuda.event(self.cuda.current())

    def seconds(self, start: Any, end: Any) -> float:
        """Between two moments that lie behind the device, such as those before something that has landed."""
        return float(end - start if self.cuda is None else self.cuda.seconds(start, end))


@dataclass(frozen=True, slots=True)
class Arrival:
    """Pixels on their way to the device."""

    pixels: Tensor
    cuda: "Cuda | None" = None
    arrived: Any = None

    def take(self) -> Tensor:
        """The pixels, for the stream that computes: it waits for them, this thread does not."""
        if self.cuda is not None:
            self.cuda.wait(self.cuda.current(), self.arrived)
            self.cuda.held_by(self.pixels, self.cuda.current())
        return self.pixels


@dataclass(frozen=True, slots=True)
class Landing:
    """Results on their way to the host."""

    results: Mapping[str, Tensor]
    cuda: "Cuda | None" = None
    landed: Any = None

    def wait(self) -> dict[str, np.ndarray]:
        """The results as arrays. What went wrong on the device is raised here."""
        if self.cuda is not None:
            self.cuda.hold(self.landed)
        return {name: result.detach().numpy() for name, result in self.results.items()}


class Cuda:
    """What the lanes ask of CUDA."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stream(self) -> Any:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def current(self) -> Any:
        return torch.cuda.current_stream(self.device)

    def within(self, stream: Any) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def event(self, stream: Any) -> Any:
        """A mark behind all that the stream was asked so far."""
        # Blocking: a thread that waits sleeps, and leaves its core to decoding.
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record(stream)
        return event

    def wait(self, stream: Any, event: Any) -> None:
        """The stream waits; this thread does not."""
        stream.wait_event(event)

    def hold(self, event: Any) -> None:
        """This thread waits."""
        event.synchronize()

    def seconds(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1000

    def held_by(self, tensor: Tensor, stream: Any) -> None:
        """The tensor's memory is not given to others before the stream is through with it."""
        tensor.record_stream(stream)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that copies beside the computing need; torch keeps it and gives it out again."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def copy(self, into: Tensor, source: Tensor) -> None:
        """On the stream that we are within."""
        into.copy_(source, non_blocking=True)
