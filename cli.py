"""The command line: parses, calls jobs or storage, prints. Heavy imports wait until a command needs them."""

import inspect
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DONE, FAILED, USAGE, WITH_FAILURES = 0, 1, 2, 3
NO_PROGRAM = 127  # a shell's answer


class Verb(click.Command):
    """A command with --debug, whose example keeps its lines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = inspect.cleandoc(self.help or "").replace("Example:\n", "\b\nExample:\n")
        self.params.append(
            click.Option(
                ["--debug"], is_flag=True, expose_value=False, callback=_remember_debug, help="Show tracebacks."
            )
        )


class Verbs(click.Group):
    """Errors that a user can mend end as one line that says the way out."""

    command_class = Verb
    group_class = type

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except KeyboardInterrupt:
            sys.exit(FAILED)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the one border where every error is met
            if ctx.find_root().meta.get("debug"):
                traceback.print_exc()
            raise Plain(error) from error


class Plain(click.ClickException):
    """`error: what, the value, the way out`."""

    def __init__(self, error: Exception) -> None:
        first_line = " ".join(str(error).split()) or type(error).__name__
        is_ours = isinstance(error, ValueError)
        super().__init__(first_line if is_ours else f"{type(error).__name__}: {first_line} (more: --debug)")
        self.exit_code = USAGE if is_ours and not _is_the_stores(error) else FAILED  # type: ignore[misc]  # Click reads it from the instance

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # Click's signature
        click.echo(f"error: {self.message}", err=True)


def _is_the_stores(error: Exception) -> bool:
    """Whether the store failed; that there is no such run or that SQL is wrong is for the user to mend."""
    kind = type(error)
    return kind.__module__.startswith("storage.") and kind.__name__ not in {
        "RunMissingError",
        "RunExistsError",
        "QueryError",
    }


def _remember_debug(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["debug"] = True


def say(text: str) -> None:
    """A message; results go to stdout, these do not."""
    click.echo(text, err=True)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ascribe", message="%(version)s")
def main() -> None:
    """Ask why of an image model for a whole data set: attribution maps, in shards, on one machine or a Ray cluster.

    Exit codes: 0 every image done, 1 failed, 2 wrong usage, 3 finished with failures.
    """


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
                type=click.Choice(["auto", "float32", "tf32", "bfloat16", "float16", "float64"]),
                help="What the model computes in.",
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


def build_spec(spec_file: str | None, assignments: tuple[str, ...], given: Mapping[str, Any]) -> Any:
    """The spec from a file, then flags, then --set; methods in their one spelling."""
    from jobs.planning import canonical_methods
    from jobs.spec import RunSpec, parse_assignments, read_document

    words = {
        word: given.get(flag)
        for flag, word in (("layer", "at"), ("target", "target"), ("baseline", "baseline"), ("noise", "noise"))
    }
    flags = {
        name: value
        for name, value in given.items()
        if value not in (None, ()) and name not in ("layer", "target", "baseline", "noise")
    }
    flags |= parse_assignments(assignments)
    if spec_file is not None:
        spec = RunSpec.from_json(read_document(spec_file)).assigned(flags)
    else:
        if not flags.get("dataset"):
            raise click.UsageError("--dataset is missing; try: cli.py submit --dataset sample --method gradshap")
        if not flags.get("methods"):
            raise click.UsageError("--method is missing; try: --method gradshap (see: cli.py methods)")
        flags.setdefault("model", "efficientnet_lite0" if flags["dataset"] == "sample" else "resnet50")
        spec = RunSpec(
            dataset=flags.pop("dataset"), methods=tuple(flags.pop("methods")), model=flags.pop("model")
        ).assigned(flags)
    return spec.assigned({"methods": canonical_methods(spec.methods, **words)})


@main.command()
@run_options
@address_option
@click.option("--wait/--no-wait", default=True, help="Follow a cluster's job until it ends, or return its id.")
@click.option("--ship-code", is_flag=True, help="Send this checkout's code along to the cluster.")
@click.option(
    "--kubernetes",
    is_flag=False,
    flag_value="gpu",
    metavar="[OVERLAY]",
    help="Apply the run's manifest with kubectl; gpu unless another overlay is named (see: cli.py k8s render -h).",
)
@click.option("--dry-run", is_flag=True, help="Say what the run would cost, and stop.")
@click.option("--take-over", is_flag=True, help="Take the run from a holder that may be alive.")
@click.option(
    "--allow-mixed", is_flag=True, help="Resume with another torch or ascribe version than the run was begun with."
)
@json_option
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    spec_file: str | None,
    assignments: tuple[str, ...],
    address: str | None,
    wait: bool,
    ship_code: bool,
    kubernetes: str | None,
    dry_run: bool,
    take_over: bool,
    allow_mixed: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Attribute a data set. The same submit again resumes the run.

    Example:
      cli.py submit --dataset sample --method gradshap --model efficientnet_lite0
    """
    from jobs.remote import address_from_environment

    spec = build_spec(spec_file, assignments, given)
    address = address or address_from_environment()
    if dry_run:
        ctx.exit(_dry_run(spec, as_json=as_json))
    if kubernetes is not None:
        ctx.exit(_apply(spec, kubernetes))
    if address is not None:
        ctx.exit(_submit_to(address, spec, wait=wait, ship_code=ship_code, as_json=as_json))
    ctx.exit(_submit_here(spec, as_json=as_json, take_over=take_over, allow_mixed=allow_mixed))


def _submit_here(spec: Any, *, as_json: bool, take_over: bool = False, allow_mixed: bool = False) -> int:
    from jobs.submit import Options, submit_here

    options = Options(
        take_over=take_over,
        allow_mixed=allow_mixed,
        command=shlex.join(["cli.py", *sys.argv[1:]]),
        say=say,
        with_bar=sys.stderr.isatty(),
        dashboard=os.environ.get("ASCRIBE_DASHBOARD", "on") != "off",
    )
    done = submit_here(spec, options)
    return _conclude(done.run, done.ending, as_json=as_json)


def _dry_run(spec: Any, *, as_json: bool) -> int:
    from jobs import tables
    from jobs.estimate import estimate
    from jobs.planning import plan
    from jobs.submit import device_kind

    device = device_kind(spec, inside=False)
    told = estimate(plan(spec, device), device, spec.workers or os.cpu_count() or 1)
    if as_json:
        click.echo(tables.as_json(told))
    else:
        shown = {**told, "bytes": tables.size(told["bytes"]), "free_bytes": tables.size(told["free_bytes"])}
        methods = [{**method, "bytes": tables.size(method["bytes"])} for method in told["methods"]]
        tables.print_fields({name: value for name, value in shown.items() if name not in ("methods", "warnings")})
        tables.print_rows(methods)
    for warning in told["warnings"]:
        say(f"warning: {warning}")
    return DONE


def _submit_to(address: str, spec: Any, *, wait: bool, ship_code: bool, as_json: bool) -> int:
    from jobs import tables
    from jobs.progress import Bar, Display, Lines
    from jobs.remote import Jobs

    jobs = Jobs(address)
    submission_id = jobs.submit(spec, ship_code=ship_code)
    say(f"job {submission_id} at {address}/#/jobs/{submission_id}")
    if not wait:
        told = {"id": submission_id, "address": address, "output": spec.output}
        click.echo(tables.as_json(told) if as_json else submission_id)
        say(f"follow: cli.py status {submission_id} --address {address} (also: logs, cancel)")
        return DONE
    display: Display = Bar() if sys.stderr.isatty() else Lines()
    with display:
        status = jobs.follow(submission_id, display.show)
    click.echo(tables.as_json(status) if as_json else f"{submission_id} {status['state'].lower()}: {spec.output}")
    if status["exit_code"] == NO_PROGRAM:
        say(f"error: the cluster at {address} has no `ascribe`: install it in its image, or add --ship-code")
        return FAILED
    if status["state"] != "SUCCEEDED" and status["exit_code"] != WITH_FAILURES:
        say(
            f"error: {' '.join(str(status['message']).split())[-300:]} (see: cli.py logs {submission_id} --address {address})"
        )
        return FAILED
    return int(status["exit_code"] or DONE)


def _apply(spec: Any, overlay: str) -> int:
    from jobs.kubernetes import IMAGE_VARIABLE, Deployment, apply, render, to_yaml

    deployment = Deployment(overlay=overlay, image=os.environ.get(IMAGE_VARIABLE))
    click.echo(apply(to_yaml(render(spec, deployment))), nl=False)
    say("follow: kubectl get rayjobs --watch")
    return DONE


def _conclude(run: Any, ending: Any, *, as_json: bool) -> int:
    from jobs import tables
    from jobs.overview import status

    told = {**status(run), "ending": ending.how, "nonfinite": ending.nonfinite}
    if as_json:
        click.echo(tables.as_json(told))
    else:
        click.echo(f"{told['run']}: {told['done']} of {told['images']} images done, {told['failed']} failed")
    if ending.nonfinite:
        say(f"warning: {ending.nonfinite} maps hold NaN or infinity (query: nonfinite_count > 0)")
    if ending.how != "finished":
        say(f"error: {ending.reason}")
        return FAILED
    if told["failed"]:
        say(f'{told["failed"]} images failed; why: cli.py query {told["run"]} "from failures"')
        return WITH_FAILURES
    return DONE


@main.command()
@run_argument
@click.option("--watch", is_flag=True, help="Look again every two seconds until the run is done.")
@address_option
@json_option
def status(run: str, watch: bool, address: str | None, as_json: bool) -> None:
    """How far a run is, from its directory or, for a job id, from its cluster.

    Example:
      cli.py status runs/demo --watch
    """
    from jobs import overview, tables

    if address is not None:
        from jobs.remote import Jobs

        told = Jobs(address).status(run)
        click.echo(tables.as_json(told)) if as_json else tables.print_fields(told)
        return
    from storage.run import Run

    opened = Run.open(overview.locate(run))
    if watch:
        _watch(opened)
    told = overview.status(opened)
    click.echo(tables.as_json(told)) if as_json else tables.print_fields(told)


def _watch(run: Any) -> None:
    from jobs.overview import snapshot
    from jobs.progress import Bar, Rate

    rate = Rate()
    with Bar() as bar:
        while True:
            seen = snapshot(run, rate, time.monotonic())
            bar.show(seen)
            if seen.done >= seen.images:
                return
            time.sleep(2.0)


@main.command("list")
@click.argument("folder", default="runs")
@address_option
@json_option
def list_runs(folder: str, address: str | None, as_json: bool) -> None:
    """The runs in a folder, or the jobs of a cluster.

    Example:
      cli.py list
    """
    from jobs import overview, tables

    if address is not None:
        from jobs.remote import Jobs

        rows = Jobs(address).list()
        columns = ["id", "state", "dataset", "methods", "output"]
    else:
        rows = overview.listed(folder)
        columns = ["run", "state", "dataset", "model", "images", "done", "failed"]
    click.echo(tables.as_json(rows)) if as_json else tables.print_rows(rows, columns)
    if not rows:
        say(f"no runs in {address or folder}")


@main.command()
@run_argument
@address_option
@click.option("--tail", type=int, help="Only the last so many lines.")
def logs(run: str, address: str | None, tail: int | None) -> None:
    """What the driver logged: a line per shard, worker and fault.

    Example:
      cli.py logs runs/demo --tail 20
    """
    from jobs import overview

    if address is not None:
        from jobs.remote import Jobs

        text = Jobs(address).logs(run)
    else:
        text = overview.log_of(overview.locate(run))
    lines = text.splitlines()
    for line in lines[-tail:] if tail else lines:
        click.echo(line)


@main.command()
@run_argument
@address_option
def cancel(run: str, address: str | None) -> None:
    """Stop a run, or a cluster's job. It finishes the shards it is committing; the same submit resumes the run.

    Example:
      cli.py cancel runs/demo
    """
    from jobs import holding
    from jobs.overview import locate
    from jobs.remote import Jobs
    from storage.run import Run

    if address is not None:
        say(f"{run} was asked to stop" if Jobs(address).cancel(run) else f"{run} has ended already")
    else:
        say(f"{holding.cancel(Run.open(locate(run)))} was asked to stop")


@main.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="How the answer is written.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the answer there and not to stdout.")
@click.option("--tensors", metavar="FILE", help="Also write the maps of the rows found, to FILE.npz or FILE.zarr.")
@json_option
def query(
    runs: tuple[str, ...],
    sql: str,
    form: Literal["table", "csv", "json", "parquet"],
    output: str | None,
    tensors: str | None,
    as_json: bool,
) -> None:
    """SQL over the tables summary, images and failures, and those that compare and report kept.

    Of several runs at once, each table has a column run.

    Example:
      cli.py query runs/demo "select key, probability from summary order by probability limit 5"
    """
    from pathlib import Path

    from jobs import query as answers
    from jobs.overview import locate
    from storage.run import Run

    opened = {name: Run.open(locate(name)) for name in runs}
    found = answers.ask(opened, sql)
    form = "json" if as_json else form
    if tensors is not None:
        say(f"{tensors}: {', '.join(answers.save_tensors(opened, found, tensors))}")
    if output is not None:
        Path(output).write_bytes(answers.written(found, "csv" if form == "table" else form))
        say(f"{output}: {found.num_rows} rows")
    elif form == "table":
        answers.print_table(found)
    else:
        sys.stdout.buffer.write(answers.written(found, form))


@main.command()
@json_option
def methods(as_json: bool) -> None:
    """The attribution methods, noise tunnels and metrics, with their parameters and where they come from.

    Example:
      cli.py methods
    """
    from jobs import catalogue, tables

    rows = catalogue.rows()
    if as_json:
        click.echo(tables.as_json(rows))
    else:
        tables.print_rows(catalogue.as_text(rows), ["method", "kind", "short", "parameters", "places", "help"])


@main.command()
@json_option
def datasets(as_json: bool) -> None:
    """What --dataset understands.

    Example:
      cli.py datasets
    """
    from dataclasses import asdict

    from jobs import tables
    from jobs.datasets import known_datasets

    rows = [asdict(known) for known in known_datasets()]
    click.echo(tables.as_json(rows)) if as_json else tables.print_rows(rows)


@main.command()
@json_option
def models(as_json: bool) -> None:
    """The models that are known by name; besides them: timm/NAME, NAME:checkpoint, NAME:random, package.module:function.

    Example:
      cli.py models
    """
    from jobs import tables
    from jobs.models import known_models

    names = list(known_models())
    click.echo(tables.as_json(names) if as_json else "\n".join(names))


@main.command()
@click.argument("model")
@click.option("--trust-checkpoint", is_flag=True, help="Load checkpoints that need pickle: they can run code.")
@json_option
def layers(model: str, trust_checkpoint: bool, as_json: bool) -> None:
    """The layers of a model, as at= and of= name them.

    Example:
      cli.py layers resnet18:random
    """
    from dataclasses import asdict

    from jobs import tables
    from jobs.models import layers as layers_of
    from jobs.models import load

    loaded = load(model, trust_checkpoint=trust_checkpoint)
    rows = [asdict(layer) for layer in layers_of(loaded.model, loaded.preprocessing.crop)]
    click.echo(tables.as_json(rows)) if as_json else tables.print_rows(rows)


@main.command()
@run_argument
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option(
    "--methods",
    multiple=True,
    metavar="METHOD",
    help="Only these, by name or expression; several with commas or by repeating.",
)
@click.option("--where", help='SQL condition on the summary instead of IMAGE: "prediction <> label".')
@click.option("--order", help='SQL order of the summary: "abs_sum desc".')
@click.option("--limit", type=int, help="At most so many images. Default with --where or --order: 12.")
@click.option(
    "--scale",
    type=click.Choice(["image", "shared"]),
    default="image",
    show_default=True,
    help="Full colour is each map's own strongest, or one for all that are shown.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default="show.png", show_default=True, help="png, pdf or svg."
)
def show(
    run: str,
    images: tuple[str, ...],
    methods: tuple[str, ...],
    where: str | None,
    order: str | None,
    limit: int | None,
    scale: Literal["image", "shared"],
    output: str,
) -> None:
    """Draw images of a run with their maps: one as a panel, several as a contact sheet. IMAGE is a row number or a key.

    Example:
      cli.py show runs/demo --where "prediction <> label" --order "abs_sum desc" --limit 12 -o wrong.png
    """
    from attribution.visualization import save
    from jobs.overview import locate
    from jobs.show import show as drawn
    from storage.run import Run

    opened = Run.open(locate(run))
    save(drawn(opened, images, where=where, order=order, limit=limit, methods=methods, scale=scale), output)
    click.echo(output)


@main.command()
@run_argument
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Folder of the site. Default: <run id>-report.")
def report(run: str, output: str | None) -> None:
    """Write a run as a web page that opens from disk: distributions, classes, a gallery to filter and sort.

    Example:
      cli.py report runs/demo -o report
    """
    from jobs.overview import locate
    from jobs.report import write_report
    from storage.run import Run

    opened = Run.open(locate(run))
    with counting("images", opened.image_count) as count:
        page = write_report(opened, output or f"{opened.spec.get('run_id', 'run')}-report", progress=count)
    click.echo(page)


@main.command()
@run_argument
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
def serve(run: str, port: int) -> None:
    """The report over HTTP on this machine, its maps read when looked at, SQL in its filter box. Ends with Ctrl-C.

    Example:
      cli.py serve runs/demo
    """
    from jobs.overview import locate
    from jobs.serve import address_of, make_server
    from storage.run import Run

    with make_server(Run.open(locate(run)), port) as server:
        click.echo(address_of(server))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


@main.command()
@run_argument
@click.argument("other", metavar="[RUN_B]", required=False)
@click.option("--methods", nargs=2, metavar="A B", help="One method of each side. Default: those that both have.")
@click.option("--measure", default="spearman", show_default=True, help="Of the biggest movers, and by class.")
@click.option("--limit", type=int, default=10, show_default=True, help="So many movers.")
@click.option("--keep/--no-keep", default=True, help="Keep the numbers with RUN as the table comparisons.")
@json_option
def compare(
    run: str, other: str | None, methods: tuple[str, str] | None, measure: str, limit: int, keep: bool, as_json: bool
) -> None:
    """How far two runs, or two methods of one run, agree on each image.

    Example:
      cli.py compare runs/demo --methods saliency grad_cam
    """
    from jobs import compare as comparison
    from jobs import tables
    from jobs.overview import locate
    from storage.run import Run

    mine = Run.open(locate(run))
    theirs = mine if other is None else Run.open(locate(other))
    pairs = len(comparison.pairs(mine, theirs, methods))
    with counting("images", pairs * mine.image_count) as count:
        found = comparison.compare(mine, theirs, methods=methods, progress=count)
    moved = comparison.movers(found, limit, measure).to_pylist()
    classes = [row for row in comparison.by_class(found).to_pylist() if row["measure"] == measure]
    if keep:
        comparison.store(mine, found)
        say(f"kept with {run} as the table {comparison.TABLE} (see: cli.py query -h)")
    if as_json:
        click.echo(tables.as_json({"by_class": classes, "movers": moved}))
        return
    tables.print_rows(classes, ["method", "other_method", "label", "count", "mean", "q05", "median", "q95"])
    click.echo(f"\nbiggest movers by {measure}")
    tables.print_rows(moved, ["image", "key", "method", "other_method", measure, "prediction", "other_prediction"])


@main.command()
@run_argument
@click.option(
    "--format", "form", type=click.Choice(["npz", "npy", "png", "hdf5-virelay"]), help="Of the files.", required=True
)
@click.option("-o", "--output", type=click.Path(file_okay=False), default="export", show_default=True, help="Folder.")
def export(run: str, form: str, output: str) -> None:
    """Write a run's maps as files that other programs read.

    Example:
      cli.py export runs/demo --format npz -o maps
    """
    from jobs.export import export as exported
    from jobs.overview import locate
    from storage.run import Run

    opened = Run.open(locate(run))
    with counting("maps", opened.image_count * len(opened.arrays)) as count:
        paths = exported(opened, output, form, progress=count)
    for path in paths:
        click.echo(path)


@main.command()
@run_argument
@click.option("--quick", is_flag=True, help="Sizes only; otherwise every byte is read.")
@click.option(
    "--repair",
    is_flag=True,
    help="Make damaged shards pending again: the next submit computes them. Not beside a running submit.",
)
@json_option
@click.pass_context
def verify(ctx: click.Context, /, run: str, quick: bool, repair: bool, as_json: bool) -> None:
    """Check a run against what it vouches for: sizes, checksums, counts. Exit code 1 where something is wrong.

    Example:
      cli.py verify runs/demo
    """
    from jobs import overview, tables
    from storage.run import Run

    opened = Run.open(overview.locate(run))
    found = opened.verify("sizes" if quick else "bytes")
    retracted = opened.repair(found) if repair else []
    told = {
        "run": opened.uri,
        "sound": found.is_sound,
        "shards": found.units,
        "objects": found.objects,
        "bytes": found.size,
        "problems": [problem.what for problem in found.problems],
        "repaired_shards": retracted,
    }
    click.echo(tables.as_json(told)) if as_json else tables.print_fields(told)
    if retracted:
        say(f"{len(retracted)} shards are pending again: submit --spec {opened.uri}/run.json --output {opened.uri}")
    ctx.exit(DONE if found.is_sound else FAILED)


@main.command()
@run_argument
def compact(run: str) -> None:
    """Fold the tables' small parts into one sorted file each and remove what dead attempts left; a submit does so at its end.

    Example:
      cli.py compact runs/demo
    """
    from jobs import overview
    from storage.run import Run

    opened = Run.open(overview.locate(run))
    click.echo(f"{opened.compact()} shards folded, {len(opened.collect_garbage())} leftovers removed")


@main.command()
@run_argument
@click.option("--method", "methods_added", multiple=True, required=True, help="Method expression; repeat for several.")
@click.option("--output", help="Where the new run lies. Default: runs/<run id>.")
@click.option("--workers", type=int, help="How many workers. Default: one a GPU, or one a core.")
@json_option
@click.pass_context
def extend(
    ctx: click.Context,
    /,
    run: str,
    methods_added: tuple[str, ...],
    output: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """More methods over the images of a run, with its model and settings: a new run that shares the index.

    Example:
      cli.py extend runs/demo --method integrated_gradients
    """
    from dataclasses import replace

    from jobs import combine
    from jobs.overview import locate
    from jobs.planning import canonical_methods
    from jobs.spec import RunSpec
    from jobs.submit import device_kind
    from storage.run import Run

    source = Run.open(locate(run))
    device = device_kind(RunSpec.from_json(source.spec), inside=False)
    _, spec = combine.extend(source, canonical_methods(methods_added), output, device)
    ctx.exit(_submit_here(replace(spec, workers=workers), as_json=as_json))


@main.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--output", required=True, help="Where the merged run lies.")
@json_option
def merge(runs: tuple[str, ...], output: str, as_json: bool) -> None:
    """One run from several that asked the same of parts of an index. What none has done stays pending.

    Example:
      cli.py merge runs/first-half runs/second-half --output runs/whole
    """
    from jobs import combine, overview, tables
    from storage.run import Run

    merged = combine.merge(output, [Run.open(overview.locate(run)) for run in runs])
    told = overview.status(merged)
    click.echo(tables.as_json(told)) if as_json else tables.print_fields(told)


@main.command()
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(run: str, yes: bool) -> None:
    """Remove a run for good, and nothing else that lies there.

    Example:
      cli.py delete runs/demo --yes
    """
    from jobs import overview
    from storage.merging import delete as deleted
    from storage.run import Run

    opened = Run.open(overview.locate(run))
    if overview.status(opened)["state"] == "running":
        raise click.UsageError(f"{opened.uri} is running; first: cli.py cancel {run}")
    yes or click.confirm(f"delete {opened.uri} with {opened.progress().done} images done?", abort=True, err=True)
    deleted(opened.uri)
    say(f"{opened.uri} is deleted")


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal for work that counts as it goes."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@main.group()
def k8s() -> None:
    """Runs on Kubernetes, with the KubeRay operator."""


@k8s.command("render")
@run_options
@click.option("--overlay", default="gpu", show_default=True, help="The machines: cpu-local, gpu or gpu-spot.")
@click.option(
    "--image", envvar="ASCRIBE_IMAGE", show_envvar=True, help="What the pods run, built from k8s/Dockerfile and pushed."
)
@click.option(
    "--name", help="Of the RayJob. Default: follows from what is asked, so that the same run is the same job."
)
@click.option("--namespace", help="Default: kubectl's own.")
@click.option("--queue", help="A LocalQueue of Kueue.")
def k8s_render(
    spec_file: str | None,
    assignments: tuple[str, ...],
    overlay: str,
    image: str | None,
    name: str | None,
    namespace: str | None,
    queue: str | None,
    **given: Any,
) -> None:
    """The manifest of one run: a Ray cluster of its own, the run, and the cluster's end.

    Example:
      cli.py k8s render --dataset s3://bucket/photos --method gradshap --output s3://bucket/runs/photos | kubectl apply -f -
    """
    from jobs.kubernetes import Deployment, render, to_yaml

    deployment = Deployment(overlay=overlay, image=image, name=name, namespace=namespace, queue=queue)
    click.echo(to_yaml(render(build_spec(spec_file, assignments, given), deployment)), nl=False)
    if image is None:
        say("note: no --image; the machines must have the manifest's own, built from k8s/Dockerfile")


@k8s.command("run", hidden=True)
@click.argument("spec_file", metavar="FILE")
@click.pass_context
def k8s_run(ctx: click.Context, spec_file: str) -> None:
    """What a RayJob runs. Failed images are an answer here: as an error they would be retried, on a new cluster, in vain.

    Example:
      cli.py k8s run /etc/ascribe/run.yaml
    """
    try:
        ctx.invoke(submit, spec_file=spec_file)
    except click.exceptions.Exit as end:
        ctx.exit(DONE if end.exit_code == WITH_FAILURES else end.exit_code)


if __name__ == "__main__":
    main()
