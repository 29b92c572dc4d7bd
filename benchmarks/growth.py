"""How time and memory grow: linear in images, steps, samples and windows; flat in memory but for the images and maps themselves.

    python benchmarks/growth.py --images FOLDER [--most 1000]

Each setting runs in a process of its own, whose peak memory (the device's where there is one) is compared with the peak of
the first setting of its kind. Time is per unit of work, so that a figure that stays is a time that grows linearly.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch
from engine import Bench, options
from measuring import machine, once

SERIES = {
    "steps": ("integrated_gradients(n_steps={})", (10, 100, 1000)),
    "steps at a layer": ('integrated_gradients(n_steps={}, at="@")', (10, 100, 1000)),
    "samples": ("gradient_shap(n_samples={}, stdev=0.1)", (10, 100, 1000)),
    "noisy copies": ('saliency(noise="smoothgrad(samples={})")', (10, 100, 1000)),
    "regions": ('feature_ablation(regions="grid({})")', (3, 10, 31)),
    "coalitions": ('kernel_shap(n_samples={}, regions="grid(7)")', (10, 100, 1000)),
    "images": ("integrated_gradients(n_steps=10)", (8, 32, 128)),
}
"""An expression and the numbers that take its place; images are a number of their own."""


def work(series: str, number: int) -> int:
    """How many passes of an image that is, up to a constant."""
    return {"regions": number**2, "images": 1}.get(series, number)


def alone(arguments: argparse.Namespace) -> None:
    """Measure one setting in this process."""
    expression, number = SERIES[arguments.series][0], arguments.number
    count = number if arguments.series == "images" else arguments.count
    arguments.count = count
    bench = Bench(arguments)
    question = bench.question(expression.format(number).replace("@", bench.layer))
    ask = bench.method(*bench.prepared(question), [question])
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = once(ask, bench.clock)
    peak = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else 1024 * _resident_kib()
    print(json.dumps({"seconds": seconds, "peak": peak, "count": count, "machine": machine()}))


def _resident_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = options(__doc__, count=4, rows=4)
    parser.add_argument("--most", type=int, default=1000, help="leave out larger numbers than this")
    parser.add_argument("--series", choices=list(SERIES), help="only this one")
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.number is not None:
        alone(arguments)
        return
    print("| what grows | to | ms an image and unit | against the first | peak memory, MB | beyond the first |")
    print("|---|---|---|---|---|---|", flush=True)
    for series in [arguments.series] if arguments.series else SERIES:
        first = None
        for number in (n for n in SERIES[series][1] if n <= arguments.most):
            command = [sys.executable, *sys.argv, "--series", series, "--number", str(number)]
            told = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            unit = 1000 * told["seconds"] / told["count"] / work(series, number)
            first = first or (unit, told["peak"])
            print(
                f"| {series} | {number} | {unit:.2f} | {unit / first[0]:.2f} x | {told['peak'] / 1e6:.0f} | "
                f"{(told['peak'] - first[1]) / 1e6:+.0f} |",
                flush=True,
            )
    print(f"\n{arguments.model}, {arguments.count} images, {arguments.rows} rows per pass, {told['machine']}")


if __name__ == "__main__":
    main()
