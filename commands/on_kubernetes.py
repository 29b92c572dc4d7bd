"""k8s render, and what a RayJob runs."""

from typing import Any

import click

from commands.frame import DONE, WITH_FAILURES, Verbs, say
from commands.options import build_spec, run_options
from commands.submitting import submit


@click.group(cls=Verbs)
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
