"""What each precision makes of the maps: error and rank correlation against float64, over real images.

    python benchmarks/precision.py --model efficientnet_lite0 --images FOLDER --count 64

For each method and precision the relative L2 distance of the maps and their rank correlation, median and worst image;
on a GPU also the time of an image relative to float32's. What a device has no units for is left out.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings

import torch
from measuring import in_turn, machine
from photographs import photographs

from attribution.explain import explain, resolve
from attribution.graphs import Graphs
from attribution.passes import Passes
from attribution.question import parse
from jobs.devices import DTYPES, backward_under, prepare_model, use_device
from jobs.models import load
from jobs.precision import available, rank_correlation

warnings.filterwarnings("ignore")

METHODS = "saliency;input_x_gradient;integrated_gradients(n_steps=20);gradient_shap(n_samples=10, stdev=0.1);grad_cam"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--images", help="a data set as `submit --dataset` takes it; default: the sample, repeated")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64, help="rows per pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default=METHODS, help="separated by ;")
    asked = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    loaded = load(asked.model)
    images = photographs(loaded, asked.images, asked.count, "cuda" if on_gpu else "cpu")
    print(f"{asked.model}, {len(images)} images, {asked.rows} rows per pass, {machine()}", flush=True)
    faster = available(torch.cuda.get_device_capability()) if on_gpu else ("bfloat16",)
    for text in asked.methods.split(";"):
        question = resolve(parse(text), loaded.model, images.pixels[:1].cpu())
        commands, maps = {}, {}
        for precision in ("float64", "float32", *faster[::-1]):
            ask = asking(loaded, question, images, precision, asked.rows)
            maps[precision] = ask()
            if precision != "float64":
                commands[precision] = ask
        timed = {}
        if on_gpu:
            for precision, ask in commands.items():  # each under its own settings, so not in turn
                use_device(precision, 1, wants_gpu=True)
                timed[precision] = in_turn({precision: ask}, asked.rounds)[precision].median
        for precision in commands:
            print(line(text, precision, maps[precision], maps["float64"], timed), flush=True)


def asking(loaded, question, images, precision, rows):
    """A call that computes the maps of all images in this precision, prepared and captured as a worker does it."""
    device = use_device(precision, torch.get_num_threads(), wants_gpu=True)
    wide = {"float64": torch.float64}.get(precision, torch.float32)
    own = copy.copy(images)
    object.__setattr__(own, "pixels", images.pixels.to(wide))
    model = prepare_model(loaded, [question], precision, device).model.to(DTYPES.get(precision))
    graphs = Graphs() if device.type == "cuda" and precision != "float64" else None

    def ask():
        passes = Passes(rows, graphs=graphs, backward=backward_under(precision))
        (answer,) = explain(model, own, [question], passes=passes).answers
        return answer.attribution

    return ask


def line(text, precision, maps, truth, timed):
    maps, truth = maps.double(), truth.double()
    moved = (maps - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    kept = rank_correlation(maps, truth)
    kept = kept[kept.isfinite()]
    told = f"{text:42s} {precision:14s} L2 {statistics.median(moved.tolist()):.1e} worst {moved.max():.1e}"
    told += f"  rank correlation {statistics.median(kept.tolist()):.4f} worst {kept.min():.4f}"
    if precision in timed:
        told += f"  time {timed[precision] / timed['float32']:.2f} of float32's"
    return told


if __name__ == "__main__":
    main()
