"""What every command has: --debug, an example in its help, errors in one line, exit codes, a bar for long work."""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from jobs.terminal import visible

DONE, FAILED, USAGE, WITH_FAILURES = 0, 1, 2, 3


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
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # Click ends quietly where the reader, such as head, has seen enough
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
        self._is_told = TOLD in getattr(error, "__notes__", ())
        self.exit_code = USAGE if is_ours and not _is_the_stores(error) else FAILED  # type: ignore[misc]  # Click reads it from the instance

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # Click's signature
        if not self._is_told:
            say(f"error: {self.message}")


TOLD = "said already"


def tell(error: Exception) -> None:
    """An error's line at once, while something that goes on beside it has still to end; it is not said again."""
    Plain(error).show()
    error.add_note(TOLD)


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
    click.echo(visible(text), err=True)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal for work that counts as it goes."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def in_folder(path: str) -> Path:
    """Where a file is to be written; its folder is made if need be."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)
