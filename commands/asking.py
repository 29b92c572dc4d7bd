"""query and compare: what the numbers of runs say."""

import sys
from typing import Literal

import click

from commands.frame import Verb, counting, in_folder, say
from commands.options import json_option, run_argument


@click.command(cls=Verb)
@click.argument("words", metavar="RUN... SQL", nargs=-1, required=True)
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
    words: tuple[str, ...],
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
    *runs, sql = words
    if not runs:
        raise click.UsageError('a run and SQL are wanted; try: cli.py query runs/demo "select * from summary limit 5"')
    if form == "parquet" and not as_json and output is None and sys.stdout.isatty():
        raise click.UsageError("parquet is not for a terminal; add -o answer.parquet")
    from jobs import query as answers
    from jobs.locating import locate
    from storage.run import Run

    opened = {name: Run.open(locate(name)) for name in dict.fromkeys(runs)}
    if len(opened) < len(runs):
        raise click.UsageError("the same run is named twice")
    found = answers.ask(opened, sql)
    form = "json" if as_json else form
    if tensors is not None:
        say(f"{tensors}: {', '.join(answers.save_tensors(opened, found, tensors))}")
    if output is not None:
        in_folder(output).write_bytes(answers.written(found, "csv" if form == "table" else form))
        say(f"{output}: {found.num_rows} rows")
    elif form == "table":
        answers.print_table(found)
    else:
        sys.stdout.buffer.write(answers.written(found, form))


@click.command(cls=Verb)
@run_argument
@click.argument("other", metavar="[RUN_B]", required=False)
@click.option("--methods", nargs=2, metavar="A B", help="One method of each side. Default: those that both have.")
@click.option(
    "--measure",
    default="spearman",
    show_default=True,
    help="Of what is printed: spearman, top_overlap, ssim, l2, l2_unit.",
)
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="So many classes and images.")
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
    from jobs.locating import locate
    from storage.run import Run

    order = comparison.worst_first(measure)
    mine = Run.open(locate(run))
    theirs = mine if other is None else Run.open(locate(other))
    pairs = len(comparison.pairs(mine, theirs, methods))
    with counting("images", pairs * mine.image_count) as count:
        found = comparison.compare(mine, theirs, methods=methods, progress=count)
    moved = comparison.movers(found, limit, measure).to_pylist()
    whole, classes = (
        [row for row in table.to_pylist() if row["measure"] == measure]
        for table in (comparison.overall(found), comparison.by_class(found))
    )
    classes.sort(key=lambda row: row["mean"], reverse=order == "descending")
    if keep:
        comparison.store(mine, found)
        say(f"kept with {run} as the table {comparison.TABLE} (see: cli.py query -h)")
    if as_json:
        click.echo(tables.as_json({"overall": whole, "by_class": classes, "movers": moved}))
        return
    numbers = ["count", "mean", "q05", "median", "q95"]
    click.echo(measure)
    tables.print_rows(whole, ["method", "other_method", *numbers])
    click.echo(f"\nclasses that agree least ({min(limit, len(classes))} of {len(classes)})")
    tables.print_rows(classes[:limit], ["label", "method", "other_method", *numbers])
    click.echo("\nimages that agree least")
    tables.print_rows(moved, ["image", "key", "method", "other_method", measure, "prediction", "other_prediction"])
