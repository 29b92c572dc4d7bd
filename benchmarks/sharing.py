"""What questions of one run cost together, against the dearest of them alone.

    python benchmarks/sharing.py --images FOLDER

Methods that read the same pass share it with the prediction, noise tunnels of every type share their noisy copies, and a
convergence delta comes from passes that are made anyway. Each set and each of its questions run in turn, medians of rounds.
"""

from __future__ import annotations

from dataclasses import replace

from engine import Bench, options
from measuring import in_turn, machine, ratios

from attribution.method import METHODS
from attribution.question import Question
from jobs.devices import prepare_model

SETS = {
    "one pass": (["saliency", "input_x_gradient", "grad_cam"], 1.2),
    "noise tunnels": (
        [f'saliency(noise="{kind}(samples=10)")' for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")],
        1.1,
    ),
    "rules": (["guided_grad_cam", "guided_backprop", "grad_cam"], None),
}
"""Questions of one run, and what the issue allows them to cost together."""


def without_delta(question: Question) -> Question:
    """The same question of a method that promises nothing."""
    kind = type(question.method)
    silent = type(kind.__name__, (kind,), {"axioms": frozenset()}, listed=False)
    assert METHODS[kind.method_name()] is kind
    return replace(question, method=silent(**{name: getattr(question.method, name) for name in kind.parameters()}))


def main() -> None:
    parser = options(__doc__, count=16, rows=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    bench = Bench(arguments)
    print(f"{arguments.model}, {arguments.count} images, {arguments.rows} rows per pass, {machine()}\n")
    print("| together | dearest alone | together costs | allowed |\n|---|---|---|---|", flush=True)
    for name, (expressions, allowed) in SETS.items():
        questions = [bench.question(text) for text in expressions]
        model = prepare_model(bench.loaded, questions, bench.precision, bench.device).model
        alone = {str(question): bench.method(model, None, [question]) for question in questions}
        timed = in_turn({**alone, "together": bench.method(model, None, questions)}, arguments.rounds, bench.clock)
        dearest = max(alone, key=lambda text: timed[text].median)
        show(name, dearest, ratios(timed["together"], timed[dearest]), allowed)
    question = bench.question("integrated_gradients(n_steps=20)")
    model = prepare_model(bench.loaded, [question], bench.precision, bench.device).model
    commands = {
        "with": bench.method(model, None, [question]),
        "without": bench.method(model, None, [without_delta(question)]),
    }
    timed = in_turn(commands, arguments.rounds, bench.clock)
    show("convergence delta", str(question), ratios(timed["with"], timed["without"]), 1.05)


def show(name: str, dearest: str, ratio: tuple[float, float, float], allowed: float | None) -> None:
    low, middle, high = ratio
    print(f"| {name} | `{dearest}` | {middle:.2f} x ({low:.2f}-{high:.2f}) | {allowed or '-'} |", flush=True)


if __name__ == "__main__":
    main()
