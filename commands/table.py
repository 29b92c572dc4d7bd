"""The table of commands, and what the program as a whole says of itself."""

import click

from commands.asking import compare, query
from commands.following import cancel, list_runs, logs, status
from commands.frame import Verbs
from commands.keeping import compact, delete, merge, verify
from commands.known import datasets, layers, methods, models
from commands.looking import export, report, serve, show
from commands.on_kubernetes import k8s
from commands.submitting import extend, submit


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ascribe", message="%(version)s")
def main() -> None:
    """Ask why of an image model for a whole data set: attribution maps, in shards, on one machine or a Ray cluster.

    Exit codes: 0 every image done, 1 failed, 2 wrong usage, 3 finished with failures.
    """


for command in (
    *(submit, status, list_runs, logs, cancel),
    *(query, compare, show, report, serve, export),
    *(verify, compact, extend, merge, delete),
    *(methods, datasets, models, layers),
    k8s,
):
    main.add_command(command)
