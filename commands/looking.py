"""show, report, serve and export: the maps as pictures, pages and files."""

import os
from typing import Literal

import click

from commands.frame import Verb, counting, in_folder, say
from commands.options import run_argument


@click.command(cls=Verb)
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
@click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many images. Default with --where or --order: 12."
)
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
    from jobs.locating import locate
    from jobs.show import show as drawn
    from storage.run import Run

    opened = Run.open(locate(run))
    figure = drawn(opened, images, where=where, order=order, limit=limit, methods=methods, scale=scale)
    save(figure, in_folder(output))
    click.echo(output)


@click.command(cls=Verb)
@run_argument
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Folder of the site. Default: <run id>-report.")
def report(run: str, output: str | None) -> None:
    """Write a run as a web page that opens from disk: distributions, classes, a gallery to filter and sort.

    Example:
      cli.py report runs/demo -o report
    """
    # The pictures are drawn in threads of ours: BLAS's own would only wait for each other in between (twice the time, measured).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from jobs.locating import locate
    from jobs.report import write_report
    from storage.run import Run

    opened = Run.open(locate(run))
    with counting("images", opened.image_count) as count:
        page = write_report(opened, output or f"{opened.spec.get('run_id', 'run')}-report", progress=count)
    click.echo(page)


@click.command(cls=Verb)
@run_argument
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
def serve(run: str, port: int) -> None:
    """The report over HTTP on this machine, its maps read when looked at, SQL in its filter box. Ends with Ctrl-C.

    Example:
      cli.py serve runs/demo
    """
    from jobs.locating import locate
    from jobs.serve import address_of, make_server
    from storage.run import Run

    with make_server(Run.open(locate(run)), port) as server:
        click.echo(address_of(server))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


@click.command(cls=Verb)
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
    from jobs.locating import locate
    from storage.run import Run

    opened = Run.open(locate(run))
    with counting("maps", opened.image_count * len(opened.arrays)) as count:
        paths = exported(opened, output, form, progress=count)
    for path in paths:
        click.echo(path)
