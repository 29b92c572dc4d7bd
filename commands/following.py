"""status, list, logs and cancel: of a run by its directory, or of a cluster's job."""

import time
from typing import Any

import click

from commands.frame import Verb, say
from commands.options import address_option, json_option, run_argument


@click.command(cls=Verb)
@run_argument
@click.option("--watch", is_flag=True, help="Look again every two seconds until the run is done.")
@address_option
@json_option
def status(run: str, watch: bool, address: str | None, as_json: bool) -> None:
    """How far a run is, from its directory or, for a job id, from its cluster.

    Example:
      cli.py status runs/demo --watch
    """
    from jobs import locating, overview, tables
    from storage.run import Run

    if (cluster := overview.job_address(run, address)) is not None:
        told = _status_of_job(cluster, run, watch=watch)
    else:
        opened = Run.open(locating.locate(run))
        if watch:
            _watch(opened)
        told = overview.status(opened)
    click.echo(tables.as_json(told)) if as_json else tables.print_fields(told)


def _status_of_job(address: str, submission_id: str, *, watch: bool) -> dict[str, Any]:
    from jobs.progress import display
    from jobs.remote import Jobs

    jobs = Jobs(address)
    if watch:
        with display() as shown:
            return jobs.follow(submission_id, shown.show)
    told, seen = jobs.status(submission_id), jobs.progress(submission_id)
    return told | ({"images": seen.images, "done": seen.done, "failed": seen.failed} if seen else {})


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


@click.command("list", cls=Verb)
@click.argument("folder", required=False)
@address_option
@json_option
def list_runs(folder: str | None, address: str | None, as_json: bool) -> None:
    """The runs in a folder (default: runs), or, where none is named and there is an address, the jobs of a cluster.

    Example:
      cli.py list
    """
    from jobs import locating, overview, tables
    from jobs.address import address_from_environment

    if address is None and folder is None:
        address = address_from_environment()
    if address is not None:
        from jobs.remote import Jobs

        rows = Jobs(address).list()
        columns = ["id", "state", "dataset", "methods", "output"]
    else:
        rows = overview.listed(folder or locating.RUNS)
        columns = ["run", "state", "dataset", "model", "images", "done", "failed"]
    click.echo(tables.as_json(rows)) if as_json else tables.print_rows(rows, columns)
    if not rows:
        say(f"no runs in {address or folder or locating.RUNS}")


@click.command(cls=Verb)
@run_argument
@address_option
@click.option("--tail", type=int, help="Only the last so many lines.")
def logs(run: str, address: str | None, tail: int | None) -> None:
    """What the driver logged: a line per shard, worker and fault.

    Example:
      cli.py logs runs/demo --tail 20
    """
    from jobs import locating, overview
    from jobs.terminal import visible

    if (cluster := overview.job_address(run, address)) is not None:
        from jobs.remote import Jobs

        text = Jobs(cluster).logs(run)
    else:
        text = overview.log_of(locating.locate(run))
    lines = text.splitlines()
    for line in lines[-tail:] if tail else lines:
        click.echo(visible(click.unstyle(line)))


@click.command(cls=Verb)
@run_argument
@address_option
def cancel(run: str, address: str | None) -> None:
    """Stop a run, or a cluster's job. It finishes the shards it is committing; the same submit resumes the run.

    Example:
      cli.py cancel runs/demo
    """
    from jobs import holding
    from jobs.locating import locate
    from jobs.overview import job_address
    from jobs.remote import Jobs
    from storage.run import Run

    if (cluster := job_address(run, address)) is not None:
        say(f"{run} was asked to stop" if Jobs(cluster).cancel(run) else f"{run} has ended already")
    else:
        say(f"{holding.cancel(Run.open(locate(run)))} was asked to stop")
