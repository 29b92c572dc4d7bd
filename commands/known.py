"""methods, datasets, models and layers: what can be asked for."""

import click

from commands.frame import Verb
from commands.options import json_option


@click.command(cls=Verb)
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


@click.command(cls=Verb)
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


@click.command(cls=Verb)
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


@click.command(cls=Verb)
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
