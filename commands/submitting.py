"""submit and extend: doing a run here, on a Ray cluster or on Kubernetes."""

import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from commands.frame import DONE, FAILED, WITH_FAILURES, Verb, say, tell
from commands.options import address_option, in_one_spelling, json_option, run_argument, run_options, stated_spec

NO_PROGRAM = 127  # a shell's answer


@click.command(cls=Verb)
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
    from jobs.address import address_from_environment

    spec = stated_spec(spec_file, assignments, given)
    address = address or address_from_environment()
    settle = partial(in_one_spelling, given=given)
    if dry_run:
        ctx.exit(_dry_run(settle(spec), as_json=as_json))
    if kubernetes is not None:
        ctx.exit(_apply(settle(spec), kubernetes))
    if address is not None:
        ctx.exit(_submit_to(address, settle(spec), wait=wait, ship_code=ship_code, as_json=as_json))
    ctx.exit(_submit_here(spec, settle, as_json=as_json, take_over=take_over, allow_mixed=allow_mixed))


@click.command(cls=Verb)
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
    from jobs.locating import locate
    from jobs.planning import canonical_methods
    from jobs.spec import RunSpec
    from jobs.working import device_kind
    from storage.run import Run

    source = Run.open(locate(run))
    device = device_kind(RunSpec.from_json(source.spec), inside=False)
    _, spec = combine.extend(source, canonical_methods(methods_added), output, device)
    ctx.exit(_submit_here(replace(spec, workers=workers), as_json=as_json))


def _submit_here(
    spec: Any,
    settle: Callable[[Any], Any] = lambda spec: spec,
    *,
    as_json: bool,
    take_over: bool = False,
    allow_mixed: bool = False,
) -> int:
    from jobs.submit import Options, submit_here

    options = Options(
        take_over=take_over,
        allow_mixed=allow_mixed,
        command=shlex.join(["cli.py", *sys.argv[1:]]),
        say=say,
        fail=tell,
        with_bar=sys.stderr.isatty(),
        dashboard=os.environ.get("ASCRIBE_DASHBOARD", "on") != "off",
    )
    done = submit_here(spec, options, settle)
    return _conclude(done.run, done.ending, as_json=as_json)


def _dry_run(spec: Any, *, as_json: bool) -> int:
    from jobs import tables
    from jobs.estimate import estimate
    from jobs.planning import plan
    from jobs.working import device_kind

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
    from jobs.address import SilentError
    from jobs.progress import display
    from jobs.remote import Jobs, from_here

    jobs, spec = Jobs(address), from_here(spec)
    address = jobs.address
    submission_id = jobs.submit(spec, ship_code=ship_code)
    where = f"{submission_id} --address {address}"
    say(f"job {submission_id} at {address}/#/jobs/{submission_id}")
    if not wait:
        told = {"id": submission_id, "address": address, "output": spec.output}
        click.echo(tables.as_json(told) if as_json else submission_id)
        say(f"follow: cli.py status {where} --watch\nread: cli.py logs {where}\nstop: cli.py cancel {where}")
        return DONE
    try:
        with display() as shown:
            status = jobs.follow(submission_id, shown.show)
    except (KeyboardInterrupt, SilentError) as error:
        lost = f"{error}; " if str(error) else ""
        say(f"{lost}the job goes on; follow: cli.py status {where} --watch (stop: cli.py cancel {where})")
        return FAILED
    click.echo(tables.as_json(status) if as_json else f"{submission_id} {status['state'].lower()}: {spec.output}")
    return _concluded(status, where, address)


def _concluded(status: dict[str, Any], where: str, address: str) -> int:
    """What a cluster's job ended with, as our exit code."""
    if status["exit_code"] == NO_PROGRAM:
        say(f"error: the cluster at {address} has no `ascribe`: install it in its image, or add --ship-code")
        return FAILED
    if status["state"] != "SUCCEEDED" and status["exit_code"] != WITH_FAILURES:
        say(f"error: {' '.join(str(status['message']).split())[-300:]} (see: cli.py logs {where})")
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
