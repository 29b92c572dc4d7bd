"""How close each method comes to the passes that its definition needs, and how it compares with Captum.

    python benchmarks/engine.py --model efficientnet_lite0 --images FOLDER [--methods saliency,occlusion] [--captum]

Efficiency = (passes the definition needs x cost of a bare pass) / time of the method. A bare pass is the same prepared
model (frozen, channels_last, folded; on a GPU captured as a CUDA graph, and compiled where --compile says so), the same
rows per pass, and no attribution around it. Bare pass, method and Captum (best of its batch settings, float32 without
TF32, the model as given) run in turn; medians of the rounds, with the spread. The last line is over all methods.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from measuring import in_turn, machine, ratios
from photographs import photographs
from torch import nn

from attribution.explain import explain, resolve
from attribution.graphs import Graphs
from attribution.passes import Passes
from attribution.question import Question, parse
from attribution.resolve import last_convolution
from attribution.site import Input, Layer, Score
from jobs.devices import backward_under, compile_model, prepare_model, tf32, use_device
from jobs.models import load
from jobs.precision import available, choose

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
    captum_images: int | None = None
    """Captum takes these images one after the other, whatever it is given: timing a few of them tells the time of one."""


class Bench:
    """One model, some images, and the bare passes to compare with."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.asked, self.rows, self.compiles = arguments.precision, arguments.rows, arguments.compile
        self.threads = arguments.threads or torch.get_num_threads()
        self.use("float32" if self.asked == "auto" else self.asked)
        self._compiled: dict[tuple[object, ...], Callable[..., object] | None] = {}
        self.loaded = load(arguments.model)
        self.images = photographs(self.loaded, arguments.images, arguments.count, self.device)
        self.x = self.images.pixels
        self.given: nn.Module = self.loaded.model.to(self.device)
        self.layer = last_convolution(self.given, self.x[:1])
        with torch.no_grad():
            self.target = self.given(self.x).argmax(1)
        self.mask = (torch.arange(224) // 32)[:, None] * 7 + (torch.arange(224) // 32)[None]
        self.mask = self.mask.expand(1, 3, 224, 224).to(self.device)
        self.black = torch.zeros_like(self.x[:1])

    def use(self, precision: str) -> None:
        self.precision = precision
        self.device = use_device(precision, self.threads, wants_gpu=True)

    def settle(self, question: Question) -> str:
        """With `--precision auto`, use what a run of this question would, chosen on these images; what was tried, as text."""
        if self.asked != "auto":
            return ""
        names = available(torch.cuda.get_device_capability()) if self.device.type == "cuda" else ()

        def maps_in(precision: str) -> list[torch.Tensor]:
            self.use(precision)
            model = prepare_model(self.loaded, [question], precision, self.device).model
            (answer,) = self.method(model, None, question)()
            return [answer.attribution]

        choice = choose(names, maps_in)
        self.use(choice.precision)
        return f"  {choice.precision} of " + ", ".join(f"{name} {kept:.3f}" for name, kept in choice.tried.items())

    def question(self, expression: str) -> Question:
        return resolve(parse(expression), self.given, self.x[:1])

    def prepared(self, question: Question) -> tuple[nn.Module, Callable[..., object] | None]:
        """The model as a worker has it, and its compiled form where that was asked for."""
        model = prepare_model(self.loaded, [question], self.precision, self.device).model
        if not self.compiles or question.at or question.of:
            return model, None
        # Models prepared alike are the same function; compiling takes longer than most methods.
        key = (self.precision, sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()))
        if key not in self._compiled:
            self._compiled[key] = compile_model(model, self.rows, tuple(self.x.shape[-2:]))[0]
        return model, self._compiled[key]

    def method(self, model: nn.Module, fast: Callable[..., object] | None, question: Question) -> Callable[[], object]:
        graphs = Graphs() if self.device.type == "cuda" else None

        def ask() -> object:
            passes = Passes(self.rows, graphs=graphs, backward=backward_under(self.precision), compiled=fast)
            return list(explain(model, self.images, [question], passes=passes).answers)

        return ask

    def bare(self, model: nn.Module, fast: Callable[..., object] | None, place: str) -> dict[str, Callable[[], object]]:
        """One forward, and one forward and backward, over all images."""
        x = self.x[: self.rows].to(next(model.parameters()).dtype)
        target = self.target[: self.rows]
        score, under = Score(model=model, target=target), backward_under(self.precision)
        layer = Layer(score, model.get_submodule(self.layer), Passes(backward=under))
        tail = layer.tail(x) if place == "tail" else None
        features = layer.features(x) if place == "tail" else x
        site = {"input": Input(score), "layer": layer, "tail": tail}[place]
        whole = fast or model

        def forward() -> object:
            with torch.no_grad():
                return tail.score(features) if tail is not None else whole(x)

        def both() -> object:
            if place != "input":
                return site.gradient(features)
            leaf = x.detach().requires_grad_()
            out = whole(leaf)
            with under():
                return torch.autograd.grad(out.gather(1, target[:, None]).sum(), leaf)

        passes = range(0, len(self.x), self.rows)
        return {name: repeated(self.captured(one), len(passes)) for name, one in (("F", forward), ("FB", both))}

    def captured(self, one: Callable[[], object]) -> Callable[[], object]:
        """On a GPU, the pass without Python between its kernels."""
        if self.device.type == "cpu":
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
            return told

        return replay


def repeated(one: Callable[[], object], times: int) -> Callable[[], object]:
    def all_of_them() -> None:
        for _ in range(times):
            one()

    return all_of_them


def as_captum_runs(command: Callable[[], object]) -> Callable[[], object]:
    """Under torch's own settings, but without TF32."""

    def run() -> object:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(mode=False)
        try:
            with tf32(allowed=False):
                return command()
        finally:
            torch.use_deterministic_algorithms(mode=before, warn_only=True)

    return run


def captum(
    name: str, construct: tuple[str, ...] = (), images: int | None = None, **settings: object
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
        x = bench.x if images is None else bench.x[:images]
        held["@target"] = bench.target[: len(x)]
        explained = captum.attr.Saliency(bench.given) if name == "NoiseTunnel" else bench.given
        method = getattr(captum.attr, name)(explained, *[held[c] for c in construct])
        arguments = {
            key: held.get(value, value) if isinstance(value, str) else value for key, value in settings.items()
        }
        return as_captum_runs(lambda: method.attribute(x, **arguments))

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
    Case(
        'lime(n_samples=100, regions="grid(7)")',
        100,
        0,
        captum=captum("Lime", images=4, n_samples=100, **GRID),
        captum_images=4,
    ),
    Case(
        'kernel_shap(n_samples=100, regions="grid(7)")',
        100,
        0,
        captum=captum("KernelShap", images=4, n_samples=100, **GRID),
        captum_images=4,
    ),
]


@dataclass(frozen=True)
class Measured:
    """What one method comes to."""

    expression: str
    efficiency: tuple[float, float, float]
    """Smallest, median, largest of the rounds."""
    speedup: tuple[float, float, float] | None
    milliseconds: dict[str, float]
    """An image's, by command."""
    precision: str = ""

    def __str__(self) -> str:
        low, middle, high = self.efficiency
        text = f"{self.expression:52s} efficiency {middle:5.2f} ({low:.2f}-{high:.2f})"
        if self.speedup is not None:
            low, middle, high = self.speedup
            text += f"  Captum {middle:6.2f} x ({low:.2f}-{high:.2f})"
        return (
            text
            + "  ms/image: "
            + "  ".join(f"{name} {value:.3f}" for name, value in self.milliseconds.items())
            + self.precision
        )


def measured(bench: Bench, case: Case, arguments: argparse.Namespace) -> Measured:
    question = bench.question(case.expression.replace("@", f'"{bench.layer}"'))
    precision = bench.settle(question)
    model, fast = bench.prepared(question)
    commands = {**bench.bare(model, fast, case.place), "method": bench.method(model, fast, question)}
    commands["method"]()  # met; captured in the round that warms up
    if arguments.captum and case.captum is not None:
        # as a careful user would: one batch of all images, and passes as small as ours
        batches = {len(bench.x), 4 * len(bench.x)} if case.captum_images is None else {1}
        commands |= {f"Captum {rows}": case.captum(bench, rows) for rows in sorted(batches)}
    clock = time.process_time if arguments.process_time else time.perf_counter
    timed = in_turn(commands, arguments.rounds, clock)
    needed = case.forward * timed["F"].median + case.forward_backward * timed["FB"].median
    efficiencies = sorted(needed / seconds for seconds in timed["method"].rounds)
    theirs = [timing for name, timing in timed.items() if name.startswith("Captum")]
    theirs_at_once = min(case.captum_images or len(bench.x), len(bench.x))
    share = len(bench.x) / theirs_at_once
    best = min(theirs, key=lambda timing: timing.median) if theirs else None
    images = {name: theirs_at_once if name.startswith("Captum") else len(bench.x) for name in timed}
    return Measured(
        expression=case.expression,
        efficiency=(efficiencies[0], statistics.median(efficiencies), efficiencies[-1]),
        speedup=ratios(best, timed["method"], share) if best else None,
        milliseconds={name: 1000 * timing.median / images[name] for name, timing in timed.items()},
        precision=precision,
    )


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
    parser.add_argument("--methods", help="only expressions that begin with one of these, separated by ;")
    parser.add_argument("--captum", action="store_true")
    parser.add_argument("--precision", default="float32", help="auto: for each method what a run would choose")
    parser.add_argument("--compile", action="store_true", help="as a long run on a GPU does")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    told = f"{arguments.precision}{', compiled' if arguments.compile else ''}"
    print(f"{arguments.model}, {len(bench.x)} images, {arguments.rows} rows per pass, {told}, {machine()}", flush=True)
    wanted = tuple(arguments.methods.split(";")) if arguments.methods else ("",)
    results = []
    for case in CASES:
        if case.expression.startswith(wanted):
            results.append(measured(bench, case, arguments))
            print(results[-1], flush=True)
    speedups = [result.speedup[1] for result in results if result.speedup]
    least = min(results, key=lambda result: result.efficiency[1])
    print(f"least efficiency {least.efficiency[1]:.2f}, of {least.expression}")
    if speedups:
        mean = statistics.geometric_mean(speedups)
        print(f"against Captum: geometric mean {mean:.2f} x over {len(speedups)} methods, least {min(speedups):.2f} x")


if __name__ == "__main__":
    main()
