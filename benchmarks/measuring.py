"""Timing several commands in turn, A B A B, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from jobs.environment import KEEP_FREED_MEMORY, unset


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


Clock = Callable[[], float]
"""time.perf_counter, or time.process_time where other programs share the cores (then with one thread)."""


def in_turn(
    commands: Mapping[str, Callable[[], object]], rounds: int = 5, clock: Clock = time.perf_counter
) -> dict[str, Timing]:
    """Each command once to warm up, then `rounds` times in turn."""
    for command in commands.values():
        command()
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds[name].append(once(command, clock))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def once(command: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    command()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def captured(one: Callable[[], object]) -> Callable[[], object]:
    """On a GPU, a pass without Python between its kernels."""
    if not torch.cuda.is_available():
        return one
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what is set up on first use
        one()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        told = one()

    def replay() -> object:
        graph.replay()
        return told, one  # what it reads must not be freed before it

    return replay


def ratios(numerator: Timing, denominator: Timing, factor: float = 1.0) -> tuple[float, float, float]:
    """Smallest, median and largest of factor * numerator / denominator, round by round."""
    values = sorted(factor * a / b for a, b in zip(numerator.rounds, denominator.rounds, strict=True))
    return values[0], statistics.median(values), values[-1]


def as_a_worker() -> None:
    """Begin again in the environment that workers on cores have: malloc reads its settings only once."""
    if not torch.cuda.is_available() and (missing := unset(KEEP_FREED_MEMORY)):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **missing})


def machine() -> str:
    """What the figures were taken on, in one line."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    )
