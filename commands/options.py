"""Options that several commands share, and the spec that they amount to."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Precision(click.Choice[str]):
    """By torch's names or their usual short forms."""

    short: ClassVar = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(self.short.get(value, value), param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout.")
run_argument = click.argument("run", metavar="RUN")
address_option = click.option("--address", help="Ray Jobs address, http://HEAD:8265 (default: RAY_ADDRESS).")


def run_options(command: F) -> F:
    """Everything that says what is computed and where; most of it is a field of the spec."""
    for option in reversed(
        (
            click.option("--dataset", help="sample, imagenet-val, a folder, a tar, a URI (see: cli.py datasets)."),
            click.option(
                "--method",
                "methods",
                multiple=True,
                help="Method expression; repeat for several (see: cli.py methods).",
            ),
            click.option(
                "--model", help="Model name (see: cli.py models). Default: resnet50; efficientnet_lite0 for sample."
            ),
            click.option("--output", help="Where the run lies: a path or URI. Default: runs/<run id>."),
            click.option("--layer", help="at= of the methods that leave it open: the layer that is credited."),
            click.option(
                "--target", help="target= of the methods that leave it open: predicted, label, a class, top2."
            ),
            click.option("--baseline", help="baseline= of the methods that leave it open: zero, black, blur, ..."),
            click.option("--noise", help='noise= of the methods that leave it open: "smoothgrad(samples=10)".'),
            click.option("--score", help="package.module:function from the model's output to one number per image."),
            click.option("--limit", type=int, help="Only the first so many images."),
            click.option("--filter", help='SQL condition on the index: "label < 10".'),
            click.option(
                "--store", type=click.Choice(["full", "channel_sum", "none"]), help="What of the maps is kept."
            ),
            click.option(
                "--keep-bits", type=int, help="Mantissa bits of stored maps, 1 to 23 (lossless). Default: 10."
            ),
            click.option(
                "--precision",
                type=Precision(
                    ["auto", "float32", "tf32-backward", "tf32", "bf16x3", "bfloat16", "float16", "float64"]
                ),
                help="What the model computes in; auto: the fastest that keeps the maps. Also fp32, bf16, fp16.",
            ),
            click.option("--batch", "rows_per_pass", type=int, help="Rows a pass."),
            click.option("--workers", type=int, help="How many workers. Default: one a GPU, or one a core."),
            click.option("--seed", type=int, help="Of all random draws. Default: 0."),
            click.option("--data-root", help="Where named data sets lie (default: IMAGENET_ROOT for imagenet-val)."),
            click.option(
                "--trust-checkpoint",
                is_flag=True,
                default=None,
                help="Load checkpoints that need pickle: they can run code.",
            ),
            click.option(
                "--stall-timeout",
                "stall_timeout_s",
                type=float,
                help="Seconds without a live worker before the run fails.",
            ),
            click.option("--max-failures", type=int, help="Failed images before the run fails."),
            click.option(
                "--spec", "spec_file", help="Take the spec from a file; RUN/run.json replays a run. Flags go over it."
            ),
            click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set any field of the spec."),
        )
    ):
        command = option(command)
    return command


OF_METHODS = {"layer": "at", "target": "target", "baseline": "baseline", "noise": "noise"}
"""The flags that are words of every method's expression."""


def build_spec(spec_file: str | None, assignments: tuple[str, ...], given: Mapping[str, Any]) -> Any:
    """The spec from a file, then flags, then --set; methods in their one spelling."""
    return in_one_spelling(stated_spec(spec_file, assignments, given), given)


def stated_spec(spec_file: str | None, assignments: tuple[str, ...], given: Mapping[str, Any]) -> Any:
    """The same with the methods as they were written, which takes no torch."""
    from jobs.spec import RunSpec, parse_assignments, read_document

    flags = {name: value for name, value in given.items() if value not in (None, ()) and name not in OF_METHODS}
    flags |= parse_assignments(assignments)
    if spec_file is not None:
        return RunSpec.from_json(read_document(spec_file)).assigned(flags)
    if not flags.get("dataset"):
        raise click.UsageError("--dataset is missing; try: cli.py submit --dataset sample --method gradshap")
    if not flags.get("methods"):
        raise click.UsageError("--method is missing; try: --method gradshap (see: cli.py methods)")
    flags.setdefault("model", "efficientnet_lite0" if flags["dataset"] == "sample" else "resnet50")
    return RunSpec(
        dataset=flags.pop("dataset"), methods=tuple(flags.pop("methods")), model=flags.pop("model")
    ).assigned(flags)


def in_one_spelling(spec: Any, given: Mapping[str, Any]) -> Any:
    """The spec with each method spelled in the one way, with what the flags say of all of them."""
    from jobs.planning import canonical_methods

    words = {word: given.get(flag) for flag, word in OF_METHODS.items()}
    return spec.assigned({"methods": canonical_methods(spec.methods, **words)})
