"""How close each method comes to the passes that its definition needs, and how it compares with Captum.

    python benchmarks/engine.py --model efficientnet_lite0 --images FOLDER [--methods saliency,occlusion] [--captum]

Efficiency = (passes the definition needs x cost of a bare pass) / time of the method. A bare pass is the same prepared
model (frozen, channels_last, folded), the same rows per pass, and no attribution around it. Bare pass, method and
Captum (best of its batch settings) run in turn; medians of the rounds, with the spread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from measuring import in_turn, machine, ratios
from torch import nn

from attribution.explain import Images, Normalisation, explain, resolve
from attribution.prepare import prepare
from attribution.question import parse
from attribution.resolve import last_convolution
from attribution.site import Input, Layer, Score
from jobs.datasets import index_dataset
from jobs.images import decode_rows
from jobs.models import load

warnings.filterwarnings("ignore")


@dataclass(frozen=True)
class Case:
    """A question, what its definition needs for one image, and the same asked of Captum."""

    expression: str
    forward: float = 0
    forward_backward: float = 0
    place: str = "input"
    """input; layer: the backward ends there; tail: only what is behind it is passed."""
    captum: Callable[[Bench, int], Callable[[], object]] | None = field(default=None, repr=False)


class Bench:
    """One model, some images, and the bare passes to compare with."""

    def __init__(self, model_name: str, images: str | None, count: int, rows: int, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load(model_name)
        dataset = index_dataset(images or "sample")
        index = dataset.index.slice(0, count)
        if len(index) < count:
            index = pa.concat_tables([index] * math.ceil(count / len(index))).slice(0, count)
        decoded = decode_rows(index, loaded.preprocessing)
        mean, std = (np.array(v, np.float32) for v in (loaded.preprocessing.mean, loaded.preprocessing.std))
        pixels = torch.from_numpy((decoded.pixels / np.float32(255) - mean) / std).movedim(3, 1).contiguous()
        self.x = pixels.to(self.device)
        self.given: nn.Module = loaded.model.to(self.device)
        self.layer = last_convolution(self.given, self.x[:1])
        self.rows = rows
        self.images = Images(
            self.x, tuple(map(str, range(count))), torch.full((count,), -1), Normalisation(tuple(mean), tuple(std))
        )
        self.target = self.given(self.x).argmax(1)
        self.mask = (torch.arange(224) // 32)[:, None] * 7 + (torch.arange(224) // 32)[None]
        self.mask = self.mask.expand(1, 3, 224, 224).to(self.device)
        self.black = torch.zeros_like(self.x[:1])

    def prepared(self, expression: str) -> nn.Module:
        question = resolve(parse(expression), self.given, self.x[:1])
        return prepare(self.given, [question], self.x[:4]).model

    def method(self, model: nn.Module, expression: str) -> Callable[[], object]:
        question = resolve(parse(expression), self.given, self.x[:1])
        return lambda: list(explain(model, self.images, [question], rows_per_pass=self.rows).answers)

    def bare(self, model: nn.Module, place: str) -> dict[str, Callable[[], object]]:
        """One forward, and one forward and backward, over all images."""
        score = Score(model=model, target=self.target)
        layer = Layer(score, model.get_submodule(self.layer)).place
        tail = Layer(score, layer).tail(self.x[: self.rows]) if place == "tail" else None
        features = Layer(score, layer).features(self.x[: self.rows]) if place == "tail" else self.x[: self.rows]
        site = {"input": Input(score), "layer": Layer(score, layer), "tail": tail}[place]

        def forward() -> None:
            for start in range(0, len(self.x), self.rows):
                with torch.no_grad():
                    if tail is not None:
                        tail.score(features)
                    else:
                        model(self.x[start : start + self.rows])

        def both() -> None:
            for start in range(0, len(self.x), self.rows):
                rows = slice(start, start + self.rows)
                if place == "input":
                    leaf = self.x[rows].detach().requires_grad_()
                    out = model(leaf)
                    torch.autograd.grad(out.gather(1, self.target[rows][:, None]).sum(), leaf)
                else:
                    site.at(features if place == "tail" else self.x[rows])

        return {"F": forward, "FB": both}


def captum(
    name: str, construct: tuple[str, ...] = (), **settings: object
) -> Callable[[Bench, int], Callable[[], object]]:
    """Captum's class with these settings; what stands as "@x" is taken from the bench."""

    def make(bench: Bench, rows: int) -> Callable[[], object]:
        import captum.attr

        held = {
            "@target": bench.target,
            "@mask": bench.mask,
            "@layer": bench.given.get_submodule(bench.layer),
            "@baselines": torch.cat([bench.black, bench.black - 1]),
            "@rows": rows,
            "@rows/x": max(1, rows // len(bench.x)),
        }
        explained = captum.attr.Saliency(bench.given) if name == "NoiseTunnel" else bench.given
        method = getattr(captum.attr, name)(explained, *[held[c] for c in construct])
        arguments = {
            key: held.get(value, value) if isinstance(value, str) else value for key, value in settings.items()
        }
        return lambda: method.attribute(bench.x, **arguments)

    return make


T = {"target": "@target"}
GRID = {"feature_mask": "@mask", "perturbations_per_eval": "@rows/x", **T}
CASES = [
    Case("saliency", 0, 1, captum=captum("Saliency", **T)),
    Case("input_x_gradient", 0, 1, captum=captum("InputXGradient", **T)),
    Case(
        "integrated_gradients(n_steps=20)",
        2,
        20,
        captum=captum("IntegratedGradients", n_steps=20, internal_batch_size="@rows", **T),
    ),
    Case(
        "gradient_shap(n_samples=10, stdev=0.1)",
        3,
        10,
        captum=captum("GradientShap", baselines="@baselines", n_samples=10, stdevs=0.1, **T),
    ),
    Case(
        'saliency(noise="smoothgrad(samples=10)")',
        1,
        10,
        captum=captum("NoiseTunnel", nt_samples=10, stdevs=0.1, nt_samples_batch_size="@rows/x", **T),
    ),
    Case("grad_cam", 0, 1, "layer", captum=captum("LayerGradCam", ("@layer",), **T)),
    Case("input_x_gradient(at=@)", 0, 1, "layer", captum=captum("LayerGradientXActivation", ("@layer",), **T)),
    Case(
        "integrated_gradients(n_steps=20, at=@)",
        0,
        20,
        "tail",
        captum=captum("LayerIntegratedGradients", ("@layer",), n_steps=20, internal_batch_size="@rows", **T),
    ),
    Case(
        "occlusion(window=32, stride=16)",
        170,
        0,
        captum=captum(
            "Occlusion", sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16), perturbations_per_eval="@rows/x", **T
        ),
    ),
    Case("deep_lift", 1, 1, captum=captum("DeepLift", **T)),
    Case("guided_backprop", 0, 1, captum=captum("GuidedBackprop", **T)),
    Case(
        "conductance(n_steps=20, at=@)",
        0,
        21,
        "layer",
        captum=captum("LayerConductance", ("@layer",), n_steps=20, internal_batch_size="@rows", **T),
    ),
    Case('feature_ablation(regions="grid(7)")', 50, 0, captum=captum("FeatureAblation", **GRID)),
    Case(
        'shapley_value_sampling(n_samples=2, regions="grid(7)")',
        98,
        0,
        captum=captum("ShapleyValueSampling", n_samples=2, **GRID),
    ),
    Case('lime(n_samples=100, regions="grid(7)")', 100, 0, captum=captum("Lime", n_samples=100, **GRID)),
    Case('kernel_shap(n_samples=100, regions="grid(7)")', 100, 0, captum=captum("KernelShap", n_samples=100, **GRID)),
]


def line(bench: Bench, case: Case, arguments: argparse.Namespace) -> str:
    expression = case.expression.replace("@", f'"{bench.layer}"')
    model = bench.prepared(expression)
    commands = {**bench.bare(model, case.place), "method": bench.method(model, expression)}
    if arguments.captum and case.captum is not None:
        # as a careful user would: one batch of all images, and passes as small as ours
        commands |= {f"captum {rows}": case.captum(bench, rows) for rows in (len(bench.x), 4 * len(bench.x))}
    clock = time.process_time if arguments.process_time else time.perf_counter
    timed = in_turn(commands, arguments.rounds, clock)
    needed = case.forward * timed["F"].median + case.forward_backward * timed["FB"].median
    efficiencies = sorted(needed / seconds for seconds in timed["method"].rounds)
    low, middle, high = efficiencies[0], statistics.median(efficiencies), efficiencies[-1]
    text = f"{case.expression:48s} F {1000 * timed['F'].median / len(bench.x):6.1f}  FB {1000 * timed['FB'].median / len(bench.x):6.1f}  "
    text += f"method {1000 * timed['method'].median / len(bench.x):8.1f} ms/image  efficiency {middle:5.2f} ({low:.2f}-{high:.2f})"
    theirs = [timing for name, timing in timed.items() if name.startswith("captum")]
    if theirs:
        best = min(theirs, key=lambda timing: timing.median)
        low, middle, high = ratios(best, timed["method"])
        text += f"  Captum {1000 * best.median / len(bench.x):8.1f} ms/image = {middle:5.2f} x ({low:.2f}-{high:.2f})"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--images", help="a data set as `submit --dataset` takes it; default: the sample, repeated")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4, help="rows per pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--process-time", action="store_true", help="CPU time instead of wall time, on a shared machine"
    )
    parser.add_argument("--methods", help="only expressions that begin with one of these, comma-separated")
    parser.add_argument("--captum", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments.model, arguments.images, arguments.count, arguments.rows, arguments.threads)
    print(f"{arguments.model}, {arguments.count} images, {arguments.rows} rows per pass, {machine()}", flush=True)
    wanted = tuple(arguments.methods.split(",")) if arguments.methods else ("",)
    for case in CASES:
        if case.expression.startswith(wanted):
            print(line(bench, case, arguments), flush=True)


if __name__ == "__main__":
    main()
