"""Promise: a text from outside cannot act on a terminal: it is shown, whatever way it takes there."""

import json

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cli
from commands.frame import say
from jobs import query, tables
from jobs.terminal import visible
from tests.jobs import tiny
from tests.jobs.test_faults import attribute, worker_of

# Clears the screen; sets the title (ended by BEL); a C1 control sequence; a carriage return over what stood there; turned writing.
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\rfine\u202egpj.exe"
ACTIVE = set("\x1b\x07\x9b\r\u202e")


@given(st.text())
def test_nothing_that_acts_is_left_and_nothing_else_is_changed(text):
    shown = visible(text)
    assert all(each.isprintable() or each in "\n\t" or each.isspace() for each in shown)
    assert not ACTIVE & set(shown)
    if text.isprintable():
        assert shown == text


def test_escapes_say_what_they_stand_for():
    assert visible("a\x1bb\u202ec\U000e0001d\u00a0é猫") == "a\\x1bb\\u202ec\\U000e0001d\u00a0é猫"


def test_json_says_the_same_to_programs_and_nothing_to_a_terminal():
    text = tables.as_json({EVIL: [EVIL, "\x7f"]})
    assert json.loads(text) == {EVIL: [EVIL, "\x7f"]}
    assert not (ACTIVE | {"\x7f"}) & set(text)


def test_tables_show_cells_and_headings_alike(capsys):
    tables.print_rows([{EVIL: EVIL}])
    tables.print_fields({EVIL: EVIL})
    query.print_table(pa.table({EVIL: [EVIL]}))
    told = capsys.readouterr().out
    assert not ACTIVE & set(told)
    assert told.count("owned") == 6


def test_messages_and_errors_too(capsys):
    say(f"warning: the class {EVIL} is rare")
    assert not ACTIVE & set(capsys.readouterr().err)
    done = CliRunner().invoke(cli.main, ["status", f"nowhere-{EVIL}"])
    assert done.exit_code == 2
    assert "owned" in done.output
    assert not ACTIVE & set(done.output)


@pytest.fixture
def run(tmp_path):
    made, _ = tiny.new_run(tiny.photographs(tmp_path / "photos", 2), tmp_path / "run", methods=("saliency",))
    worker = worker_of(made)
    for unit in range(made.unit_count):
        attribute(worker, made, unit)
    return made


def test_a_log_is_read_without_being_obeyed(run, tmp_path):
    (tmp_path / "run" / "driver.log").write_text(f"shard failed error={EVIL}\n\x1b[1m\x1b[32mcoloured\x1b[0m\n")
    done = CliRunner().invoke(cli.main, ["logs", str(tmp_path / "run")])
    assert not ACTIVE & set(done.output)
    assert done.output.splitlines()[-1] == "coloured"


def test_sql_cannot_send_what_no_key_may_hold(run):
    """Keys are cleaned when they are read; a run from someone else's hands may still hold anything."""
    for form in ("table", "json"):
        done = CliRunner().invoke(cli.main, ["query", run.uri, f"select '{EVIL}' as key", "--format", form])
        assert done.exit_code == 0, done.output
        assert not ACTIVE & set(done.output)


@pytest.mark.parametrize(
    "key", ['=HYPERLINK("http://x")', "+1.jpg", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"]
)
def test_a_key_is_no_formula_in_a_spreadsheet(key):
    table = pa.table({"key": [key], "=1+1": [-1.5], "label": pa.array([None], pa.int32())})
    rows = query.written(table, "csv").decode()
    heading, cells = rows.split("\n", maxsplit=1)
    assert heading == "key,'=1+1,label"
    assert cells.lstrip('"').startswith("'")
    assert cells.rstrip("\n").endswith(",-1.5,")  # a number stays one
    assert json.loads(query.written(table, "json"))[0]["key"] == key
