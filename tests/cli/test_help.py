"""Promise: the command line is frozen. A new knob goes to the spec (`--set key=value`) before it becomes a flag."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("help.golden.txt")


def commands(group=cli.main, prefix=()):
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


NAMES = [" ".join(words) for words, _ in commands()]
COMMANDS = [command for _, command in commands()]


def frozen():
    """Every command with its arguments, flags and choices; texts may be bettered without asking."""
    lines = []
    for words, command in commands():
        lines.append(" ".join(words))
        for parameter in command.params:
            spelled = ", ".join([*parameter.opts, *parameter.secondary_opts])
            kind = f" [{'|'.join(parameter.type.choices)}]" if isinstance(parameter.type, click.Choice) else ""
            many = " ..." if parameter.multiple or parameter.nargs == -1 else ""
            needed = " required" if parameter.required else ""
            lines.append(f"  {spelled}{kind}{many}{needed}")
    return "\n".join(lines) + "\n"


def test_the_command_line_is_the_frozen_one():
    """After a change that was decided: python -m tests.cli.test_help > tests/cli/help.golden.txt"""
    assert frozen() == GOLDEN.read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_command_has_help_and_a_copyable_example(command):
    example = [line.strip() for line in command.help.splitlines() if line.strip().startswith("cli.py ")]
    assert example
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("name", NAMES)
def test_help_works_in_its_short_form_and_keeps_the_example_on_its_line(name):
    told = CliRunner().invoke(cli.main, [*name.split(), "-h"]).stdout
    assert "Example:\n" in told
    assert "\b" not in told
    assert "--debug" in told


def test_the_promised_commands_are_there():
    promised = (
        "submit status list logs cancel query show report serve compare export verify compact extend merge delete"
    )
    assert {*promised.split(), "methods", "models", "layers", "datasets", "k8s render"} <= set(NAMES)


@pytest.mark.parametrize(
    "words",
    [["-h"], ["submit", "-h"], ["status", "nowhere"], ["query", "nowhere", "select 1"], ["show", "nowhere", "0"]],
)
def test_what_only_reads_loads_neither_torch_nor_ray(words):
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('loaded:', *sorted({'torch', 'ray'} & set(sys.modules))))\n"
        f"sys.argv = ['cli.py', *{words!r}]\nimport cli\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "loaded:"


if __name__ == "__main__":
    print(frozen(), end="")
