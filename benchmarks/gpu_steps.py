"""Rules' steps over an activation on a GPU: as torch's operations, as one kernel, and the bytes a second that this moves.

    python benchmarks/gpu_steps.py [--shape 32 64 112 112] [--rounds 50]

The plain gradient of ReLU6 beside them is what a step can hope for. Times are of the device, of recordings in CUDA graphs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from math import inf

import torch
from measuring import captured
from torch import Tensor

from attribution import native
from attribution.kept import Kept
from attribution.rules import difference, linear, rectified


class Clamp:
    """The operation as a rule gets it."""

    is_of_one_tensor = True

    def __call__(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


def steps(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], int]]:
    """By name: the step, and how many arrays it has to read and write."""
    x, gradient, before = (torch.randn(shape, device="cuda").to(dtype) for _ in range(3))
    if len(shape) == 4:
        x, gradient, before = (t.to(memory_format=torch.channels_last) for t in (x, gradient, before))
    row, zero, scale = x[:1] + 1, x.new_zeros((1,) * x.dim()), x.new_ones(shape[1])
    damp, scaled = (
        linear.damped_scale(1e-9, scale, behind)
        for behind in (None, linear.Damping(eps=1e-9, kept=Kept(before), has_heir=True, readers=1))
    )
    return {
        "gradient of ReLU6": (lambda: torch.ops.aten.hardtanh_backward(gradient, x, 0, 6), 3),
        "DeepLIFT, one row": (lambda: difference.rescale_clamp(0, 6)(Clamp(), gradient, [x], [row]), 3),
        "DeepLIFT, zero": (lambda: difference.rescale_clamp(0, inf)(Clamp(), gradient, [x], [zero]), 3),
        "LRP, a norm": (lambda: damp(Clamp(), gradient, [x], []), 3),
        "LRP, a norm and what it reads": (lambda: scaled(Clamp(), gradient, [x], []), 4),
        "Guided Backprop": (lambda: rectified.guided_step(6.0)(Clamp(), gradient, [x], []), 3),
    }


def milliseconds(step: Callable[[], object], rounds: int) -> float:
    """The median of the rounds."""
    replay, times = captured(step), []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[32, 64, 112, 112])
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, tuple(arguments.shape))
    assert native.on_gpu(torch.device("cuda", 0)) is not None, "no kernels here; the log says why"
    in_one = native.steps_for
    for dtype in (torch.float32, torch.float16):
        for name, (step, arrays) in steps(tuple(arguments.shape), dtype).items():
            ours = milliseconds(step, arguments.rounds)
            native.steps_for = lambda _: None  # torch's operations
            plain = milliseconds(step, arguments.rounds)
            native.steps_for = in_one
            moved = arrays * dtype.itemsize * torch.Size(arguments.shape).numel() / ours / 1e9
            print(f"{dtype!s:14} {name:30} torch {plain:7.3f} ms  one kernel {ours:7.3f} ms  {moved:5.2f} TB/s")


if __name__ == "__main__":
    main()
