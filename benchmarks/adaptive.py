"""What integrated_gradients(tolerance=...) saves: gradients for the completeness that fixed steps reach, on photographs.

    python benchmarks/adaptive.py --images FOLDER --count 64 --tolerance 0.05 --fixed 40 80

--reference 512 also compares the maps: the distance to the map of that many steps, relative to its length.

Prints for each setting the gradients an image takes on average and the relative completeness error: median, 95th
percentile, worst. `pool` is what the gradients cost with passes of --rows rows, padding included. Counts, no times: the
figures are the same on any machine up to float32's rounding.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from photographs import photographs

from attribution.explain import Images, explain, resolve
from attribution.passes import Passes
from attribution.prepare import prepare
from attribution.question import parse
from jobs.models import load


def measured(model, images: Images, expression: str, rows: int) -> tuple[float, float, np.ndarray, torch.Tensor]:
    """Gradients an image, the same with padding, each image's relative completeness error, and the maps."""
    question, passes, asked = resolve(parse(expression), model, images.pixels[:1]), Passes(rows), []
    passes.on_pass = asked.append
    (answer,) = explain(model, images, [question], passes=passes).answers
    fixed = question.method.n_steps
    steps = answer.steps if answer.steps is not None else torch.full((len(images),), fixed)
    difference = answer.attribution.flatten(1).sum(1) - answer.convergence_delta
    error = (answer.convergence_delta / difference).abs()
    return (
        float(steps.double().mean()),
        len(asked) * rows / len(images),
        error.cpu().numpy(),
        answer.attribution.flatten(1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tolerance", type=float, nargs="*", default=[0.05])
    parser.add_argument("--fixed", type=int, nargs="*", default=[40, 80])
    parser.add_argument("--reference", type=int, default=0)
    arguments = parser.parse_args()
    loaded = load(arguments.model)
    images = photographs(loaded, arguments.images, arguments.count)
    expressions = [f"integrated_gradients(tolerance={t})" for t in arguments.tolerance]
    expressions += [f"integrated_gradients(n_steps={n})" for n in arguments.fixed]
    model = prepare(loaded.model, [parse(expressions[0])], images.pixels[:4]).model
    true = None
    if arguments.reference:
        fine = f"integrated_gradients(tolerance=1e-9, max_steps={arguments.reference})"
        *_, true = measured(model, images, fine, arguments.rows)
    print(
        "| method | gradients an image | pool | median error | 95th percentile | worst | map |\n|---|---|---|---|---|---|---|"
    )
    for expression in expressions:
        steps, pool, error, maps = measured(model, images, expression, arguments.rows)
        median, high, worst = np.quantile(error, [0.5, 0.95, 1])
        distance = float(((maps - true).norm(dim=1) / true.norm(dim=1)).median()) if true is not None else float("nan")
        print(
            f"| `{expression}` | {steps:.1f} | {pool:.1f} | {median:.3f} | {high:.3f} | {worst:.3f} | {distance:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
