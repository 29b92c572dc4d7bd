"""What questions of one run cost together, against the dearest of them alone.

    python benchmarks/sharing.py --images FOLDER

Methods that read the same pass share it with the prediction, noise tunnels of every type share their noisy copies, and a
convergence delta comes from passes that are made anyway. Each set and each of its questions run in turn, medians of rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

from engine import Bench
from measuring import in_turn, machine, ratios

from attribution.explain import explain, resolve
from attribution.graphs import Graphs
from attribution.method import METHODS
from attribution.passes import Passes
from attribution.question import Question, parse
from jobs.devices import backward_under, prepare_model

SETS = {
    "one pass": (["saliency", "input_x_gradient", "grad_cam"], 1.2),
    "noise tunnels": (
        [f'saliency(noise="{kind}(samples=10)")' for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")],
        1.1,
    ),
    "rules": (["guided_grad_cam", "guided_backprop", "grad_cam"], None),
}
"""Questions of one run, and what the issue allows them to cost together."""


def asking(bench: Bench, model, questions: list[Question]) -> Callable[[], object]:
    graphs = Graphs() if bench.device.type == "cuda" else None

    def ask() -> object:
        passes = Passes(bench.rows, graphs=graphs, backward=backward_under(bench.precision))
        return list(explain(model, bench.images, questions, passes=passes).answers)

    return ask


def without_delta(question: Question) -> Question:
    """The same question of a method that promises nothing."""
    kind = type(question.method)
    silent = type(kind.__name__, (kind,), {"axioms": frozenset()}, listed=False)
    assert METHODS[kind.method_name()] is kind
    return replace(question, method=silent(**{name: getattr(question.method, name) for name in kind.parameters()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--images", help="a data set as `submit --dataset` takes it; default: the sample, repeated")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true", help="as a long run on a GPU does")
    parser.add_argument("--process-time", action="store_true", help="CPU time, on a shared machine")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    clock = time.process_time if arguments.process_time else time.perf_counter
    print(f"{arguments.model}, {arguments.count} images, {arguments.rows} rows per pass, {machine()}\n")
    print("| together | dearest alone | together costs | allowed |\n|---|---|---|---|", flush=True)
    for name, (expressions, allowed) in SETS.items():
        questions = [resolve(parse(text), bench.given, bench.x[:1]) for text in expressions]
        model = prepare_model(bench.loaded, questions, bench.precision, bench.device).model
        alone = {str(question): asking(bench, model, [question]) for question in questions}
        timed = in_turn({**alone, "together": asking(bench, model, questions)}, arguments.rounds, clock)
        dearest = max(alone, key=lambda text: timed[text].median)
        show(name, dearest, ratios(timed["together"], timed[dearest]), allowed)
    question = resolve(parse("integrated_gradients(n_steps=20)"), bench.given, bench.x[:1])
    model = prepare_model(bench.loaded, [question], bench.precision, bench.device).model
    commands = {"with": asking(bench, model, [question]), "without": asking(bench, model, [without_delta(question)])}
    timed = in_turn(commands, arguments.rounds, clock)
    show("convergence delta", str(question), ratios(timed["with"], timed["without"]), 1.05)


def show(name: str, dearest: str, ratio: tuple[float, float, float], allowed: float | None) -> None:
    low, middle, high = ratio
    print(f"| {name} | `{dearest}` | {middle:.2f} x ({low:.2f}-{high:.2f}) | {allowed or '-'} |", flush=True)


if __name__ == "__main__":
    main()
