"""verify, compact, merge and delete: care for runs that lie there."""

import click

from commands.frame import DONE, FAILED, Verb, say
from commands.options import json_option, run_argument


@click.command(cls=Verb)
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
    from jobs import locating, tables
    from storage.run import Run

    opened = Run.open(locating.locate(run))
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


@click.command(cls=Verb)
@run_argument
def compact(run: str) -> None:
    """Fold the tables' small parts into one sorted file each and remove what dead attempts left; a submit does so at its end.

    Example:
      cli.py compact runs/demo
    """
    from jobs import locating
    from storage.run import Run

    opened = Run.open(locating.locate(run))
    click.echo(f"{opened.compact()} shards folded, {len(opened.collect_garbage())} leftovers removed")


@click.command(cls=Verb)
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--output", required=True, help="Where the merged run lies.")
@json_option
def merge(runs: tuple[str, ...], output: str, as_json: bool) -> None:
    """One run from several that asked the same of parts of an index. What none has done stays pending.

    Example:
      cli.py merge runs/first-half runs/second-half --output runs/whole
    """
    from jobs import combine, locating, overview, tables
    from storage.run import Run

    merged = combine.merge(output, [Run.open(locating.locate(run)) for run in runs])
    told = overview.status(merged)
    click.echo(tables.as_json(told)) if as_json else tables.print_fields(told)


@click.command(cls=Verb)
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(run: str, yes: bool) -> None:
    """Remove a run for good, and nothing else that lies there.

    Example:
      cli.py delete runs/demo --yes
    """
    from jobs import locating, overview
    from storage.merging import delete as deleted
    from storage.run import Run

    opened = Run.open(locating.locate(run))
    if overview.status(opened)["state"] == "running":
        raise click.UsageError(f"{opened.uri} is running; first: cli.py cancel {run}")
    yes or click.confirm(f"delete {opened.uri} with {opened.progress().done} images done?", abort=True, err=True)
    deleted(opened.uri)
    say(f"{opened.uri} is deleted")
