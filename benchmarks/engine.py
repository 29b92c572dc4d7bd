"""How close each method comes to the passes that its definition needs, and how it compares with Captum.

    python benchmarks/engine.py --model efficientnet_lite0 --images FOLDER [--methods "saliency;occlusion"] [--captum]

Efficiency = (passes the definition needs x cost of a bare pass) / time of the method. A bare pass is the same prepared
model (frozen, channels_last, folded; on a GPU captured as a CUDA graph, and compiled where --compile says so), the same
rows per pass, and no attribution around it. Bare pass, method and Captum (best of its batch settings, float32 without
TF32, the model as given) run in turn; medians of the rounds, with the spread. The last line is over all methods. More than 1
is what methods save that compute images only where they differ from known ones (attribution/nearby.py).
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from engine_cases import CASES, Case
from measuring import as_a_worker, captured, in_turn, machine, ratios
from photographs import photographs
from torch import nn

from attribution.explain import Answer, explain, resolve
from attribution.graphs import Graphs
from attribution.layer import Layer
from attribution.metrics import parse_metric
from attribution.passes import Passes
from attribution.question import Question, parse
from attribution.resolve import last_convolution
from attribution.site import Input, Score
from jobs.devices import backward_under, compile_model, prepare_model, use_device
from jobs.models import load
from jobs.precision import candidates, choose, settled

warnings.filterwarnings("ignore")

A_LONG_RUN = 1_000_000  # images


class Bench:
    """One model, some images, and the bare passes to compare with."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        as_a_worker()
        self.asked, self.rows, self.compiles = arguments.precision, arguments.rows, arguments.compile
        self.threads = arguments.threads or torch.get_num_threads()
        self.clock = time.process_time if arguments.process_time else time.perf_counter
        self.use("float32" if self.asked == "auto" else self.asked)
        self._prepared: dict[tuple[object, ...], nn.Module] = {}
        self._compiled: dict[tuple[object, ...], Callable[..., object] | None] = {}
        self.loaded = load(arguments.model)
        self.images = photographs(self.loaded, arguments.images, arguments.count, self.device)
        self.x = self.images.pixels
        self.images = replace(self.images, references=self.x[:2])
        self.take_given()
        self.layer = last_convolution(self.given, self.x[:1])
        with torch.no_grad():
            self.target = self.given(self.x).argmax(1)
        self.mask = (torch.arange(224) // 32)[:, None] * 7 + (torch.arange(224) // 32)[None]
        self.mask = self.mask.expand(1, 3, 224, 224).contiguous().to(self.device)
        self.quarters = (torch.arange(224) // 112)[:, None] * 2 + (torch.arange(224) // 112)[None]
        self.quarters = self.quarters.expand(1, 3, 224, 224).contiguous().to(self.device)
        self.black = torch.zeros_like(self.x[:1])

    def take_given(self) -> None:
        """A copy of the model as it was loaded, since Captum hangs things on modules."""
        self.given: nn.Module = copy.deepcopy(self.loaded.model).to(self.device)

    def use(self, precision: str) -> None:
        self.precision = precision
        self.device = use_device(precision, self.threads, wants_gpu=True)

    def settle(self, question: Question) -> str:
        """With `--precision auto`, use what a run of this question would, chosen on these images; what was tried, as text."""
        if self.asked != "auto":
            return ""

        def maps_in(precision: str) -> list[torch.Tensor]:
            self.use(precision)
            model = self.model(question)
            (answer,) = self.method(model, None, [question])()
            return [answer.attribution]

        kind = self.device.type
        choice = settled(kind, [question], image_count=A_LONG_RUN) or choose(
            candidates(kind, self.given, [question]), maps_in
        )
        self.use(choice.precision)
        return f"  {choice.precision} of " + ", ".join(f"{name} {kept:.3f}" for name, kept in choice.tried.items())

    def question(self, expression: str) -> Question:
        return resolve(parse(expression), self.given, self.x[:1])

    def model(self, question: Question) -> nn.Module:
        """The model as a worker has it; questions for which it is prepared alike share it, since the checks take long."""
        key = (question.at, str(question.of), question.method.folds, self.precision)
        if key not in self._prepared:
            self._prepared[key] = prepare_model(self.loaded, [question], self.precision, self.device).model
        return self._prepared[key]

    def prepared(self, question: Question) -> tuple[nn.Module, Callable[..., object] | None]:
        """The model as a worker has it, and its compiled form where that was asked for."""
        model = self.model(question)
        if not self.compiles or question.at or question.of:
            return model, None
        # Models prepared alike are the same function; compiling takes longer than most methods.
        key = (self.precision, sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()))
        if key not in self._compiled:
            self._compiled[key] = compile_model(model, self.rows, tuple(self.x.shape[-2:]))[0]
        return model, self._compiled[key]

    def method(
        self,
        model: nn.Module,
        fast: Callable[..., object] | None,
        questions: Sequence[Question],
        metrics: Sequence[str] = (),
    ) -> Callable[[], list[Answer]]:
        """The questions asked of all images, in the precision that is in use now."""
        asked, images, backward = [parse_metric(text) for text in metrics], self.images, backward_under(self.precision)
        graphs = Graphs() if self.device.type == "cuda" else None

        def ask() -> list[Answer]:
            passes = Passes(self.rows, graphs=graphs, backward=backward, compiled=fast)
            return list(explain(model, images, questions, passes=passes, metrics=asked).answers)

        return ask

    def bare(self, model: nn.Module, fast: Callable[..., object] | None, place: str) -> dict[str, Callable[[], object]]:
        """One forward, and one forward and backward, over all images: other rows each pass, as a method meets them."""
        starts = range(0, len(self.x), self.rows)
        passes = [self._bare_pass(model, fast, place, slice(start, start + self.rows)) for start in starts]
        return {name: in_order([captured(one[name]) for one in passes]) for name in ("F", "FB")}

    def _bare_pass(
        self, model: nn.Module, fast: Callable[..., object] | None, place: str, rows: slice
    ) -> dict[str, Callable[[], object]]:
        x = self.x[rows].to(next(model.parameters()).dtype)
        target = self.target[rows]
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

        return {"F": forward, "FB": both}


def in_order(all_of_them: Sequence[Callable[[], object]]) -> Callable[[], object]:
    def run() -> None:
        for one in all_of_them:
            one()

    return run


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
    question = bench.question(case.expression.replace("@", bench.layer))
    precision = bench.settle(question)
    model, fast = bench.prepared(question)
    commands = {**bench.bare(model, fast, case.place), "method": bench.method(model, fast, [question], case.metrics)}
    if case.front:
        commands["F whole"] = bench.bare(model, fast, "input")["F"]
    if case.at_layer:
        commands["FB layer"] = bench.bare(model, fast, "layer")["FB"]
    commands["method"]()  # met; captured in the round that warms up
    failure = ""
    if arguments.captum:
        # as a careful user would: one batch of all images, and passes as small as ours
        batches = {len(bench.x), 4 * len(bench.x)} if case.captum_images is None else {1}
        theirs = {f"Captum {rows}": case.captum(bench, rows) for rows in sorted(batches)}
        try:
            next(iter(theirs.values()))()
            commands |= theirs
        except Exception as error:  # noqa: BLE001  # whatever Captum makes of this model
            failure = f"  Captum: {type(error).__name__}"
            bench.take_given()  # where it fails it leaves them there, DeepLIFT all activations
    timed = in_turn(commands, arguments.rounds, bench.clock)
    whole = timed["F whole" if case.front else "F"].median
    needed = case.forward * timed["F"].median + (case.front + case.once / len(bench.x)) * whole
    needed += case.forward_backward * timed["FB"].median + (case.at_layer and case.at_layer * timed["FB layer"].median)
    efficiencies = sorted(needed / seconds for seconds in timed["method"].rounds)
    theirs = [timing for name, timing in timed.items() if name.startswith("Captum")]
    theirs_at_once = min(case.captum_images or len(bench.x), len(bench.x))
    share = len(bench.x) / theirs_at_once
    best = min(theirs, key=lambda timing: timing.median) if theirs else None
    images = {name: theirs_at_once if name.startswith("Captum") else len(bench.x) for name in timed}
    return Measured(
        expression=", ".join([case.expression, *case.metrics]),
        efficiency=(efficiencies[0], statistics.median(efficiencies), efficiencies[-1]),
        speedup=ratios(best, timed["method"], share) if best else None,
        milliseconds={name: 1000 * timing.median / images[name] for name, timing in timed.items()},
        precision=precision + failure,
    )


def options(told: str | None, count: int, rows: int) -> argparse.ArgumentParser:
    """What a Bench is made from; benchmarks add what is theirs."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--images", help="a data set as `submit --dataset` takes it; default: the sample, repeated")
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--rows", type=int, default=rows, help="rows per pass")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--process-time", action="store_true", help="CPU time instead of wall time, on a shared machine"
    )
    parser.add_argument("--precision", default="float32", help="auto: for each method what a run would choose")
    parser.add_argument("--compile", action="store_true", help="as a long run on a GPU does")
    return parser


def main() -> None:
    parser = options(__doc__, count=16, rows=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", help="only expressions that begin with one of these, separated by ;")
    parser.add_argument("--captum", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    told = f"{arguments.precision}{', compiled' if arguments.compile else ''}"
    print(f"{arguments.model}, {len(bench.x)} images, {arguments.rows} rows per pass, {told}, {machine()}", flush=True)
    wanted = tuple(arguments.methods.split(";")) if arguments.methods else ("",)
    results, failed = [], list[str]()
    for case in CASES:
        if case.expression.startswith(wanted):
            try:
                results.append(measured(bench, case, arguments))
            except RuntimeError as error:  # the other methods' figures are worth having
                failed.append(case.expression)
                print(f"{case.expression:52s} failed: {str(error).splitlines()[0]}", flush=True)
                continue
            print(results[-1], flush=True)
            gc.collect()  # sites and their tails hold each other, and with them recordings of whole passes
    speedups = [result.speedup[1] for result in results if result.speedup]
    least = min(results, key=lambda result: result.efficiency[1])
    print(f"least efficiency {least.efficiency[1]:.2f}, of {least.expression}")
    if speedups:
        mean = statistics.geometric_mean(speedups)
        print(f"against Captum: geometric mean {mean:.2f} x over {len(speedups)} methods, least {min(speedups):.2f} x")
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
