"""query and compare: what the numbers of runs say."""

import sys
from pathlib import Path
from typing import Literal

import click

from commands.frame import Verb, counting, say
from commands.options import json_option, run_argument


@click.command(cls=Verb)
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


@click.command(cls=Verb)
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
