"""What each precision makes of the maps: error and rank correlation against float64, over real images.

    python benchmarks/precision.py --model efficientnet_lite0 --images FOLDER --count 64

For each method and precision the relative L2 distance of the maps and their rank correlation, median and worst image,
and the time of an image relative to float32's. What a GPU has no units for is left out.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch
from engine import Bench, options
from measuring import in_turn, machine

from jobs.precision import available, rank_correlation

METHODS = "saliency;input_x_gradient;integrated_gradients(n_steps=20);gradient_shap(n_samples=10, stdev=0.1);grad_cam"


def main() -> None:
    parser = options(__doc__, count=64, rows=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default=METHODS, help="separated by ;")
    asked = parser.parse_args()
    bench = Bench(asked)
    photographs = bench.images
    print(f"{asked.model}, {len(photographs)} images, {asked.rows} rows per pass, {machine()}", flush=True)
    faster = available(bench.device.type, bench.given) or ("bfloat16",)
    for text in asked.methods.split(";"):
        question = bench.question(text)
        commands, maps = {}, {}
        for precision in ("float64", "float32", *faster[::-1]):
            bench.use(precision)
            wide = torch.float64 if precision == "float64" else torch.float32
            bench.images = replace(photographs, pixels=photographs.pixels.to(wide))
            ask = bench.method(bench.model(question), None, [question])
            (answer,) = ask()
            maps[precision] = answer.attribution
            if precision != "float64":
                commands[precision] = ask
        timed = {}
        for precision, ask in commands.items():  # each under its own settings, so not in turn
            bench.use(precision)
            timed[precision] = in_turn({precision: ask}, asked.rounds)[precision].median
        for precision in commands:
            print(line(text, precision, maps[precision], maps["float64"], timed), flush=True)


def line(text, precision, maps, truth, timed):
    maps, truth = maps.double(), truth.double()
    moved = (maps - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    kept = rank_correlation(maps, truth)
    kept = kept[kept.isfinite()]
    told = f"{text:42s} {precision:14s} L2 {statistics.median(moved.tolist()):.1e} worst {moved.max():.1e}"
    told += f"  rank correlation {statistics.median(kept.tolist()):.4f} worst {kept.min():.4f}"
    return told + f"  time {timed[precision] / timed['float32']:.2f} of float32's"


if __name__ == "__main__":
    main()
