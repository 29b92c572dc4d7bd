"""Promise: a data set's names stay names: no path, markup, formula, SQL or terminal sequence, whichever command meets them."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import cli
from jobs.indexing.entry import DatasetError
from tests.jobs import tiny
from tests.jobs.test_faults import attribute, worker_of
from tests.jobs.test_terminal import ACTIVE

NAMES = [
    "=1+1|cmd.png",
    "\x1b[2J\x1b]0;owned\x07.png",
    "\x9b31mC1.png",
    "\u202egnp.exe.png",
    "a\nb.png",
    "x\\..\\..\\y.png",
    "%2e%2e%2fetc.png",
    "$(touch pwned).png",
    r"cost $\frac$ and $_{.png",
    "'; drop table summary; --.png",
    "<img src=x onerror=alert(1)>.png",
    "[bold red]x[-].png",
    "-rf.png",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    top = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(NAMES):
        path = top / "photos" / ("n01440764" if number % 2 else "\x1b[31m<script>alert(1)<") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (9 * number, 40, 80)).save(path, format="PNG")
    (path.parent / "\x1b[2Jbad.png").write_text("no picture \x1b[2J")
    made, _ = tiny.new_run(top / "photos", top / "run", methods=("saliency",))
    worker = worker_of(made)
    for unit in range(made.unit_count):
        attribute(worker, made, unit)
    return made


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def invoke(*words):
        done = CliRunner().invoke(cli.main, [str(word) for word in words])
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
        turned = {"\u202e"} if "csv" in words else set()  # a file of exact texts, which no terminal executes
        assert not ACTIVE & set(done.output) - turned, words
        return done.output

    return invoke


def test_every_image_has_its_row_and_is_found_by_its_name(run, call):
    assert run.progress().done == len(NAMES)
    keys = run.index["key"].to_pylist()
    for key in keys:
        quoted = key.replace("'", "''")
        found = call("query", run.uri, f"select count(*) as n from images where key = '{quoted}'", "--json")
        assert json.loads(found) == [{"n": 1}]
    assert "no picture" in call("query", run.uri, "from failures")
    assert len(call("query", run.uri, "select key from images").splitlines()) == len(keys) + 1
    assert not [
        line
        for line in call("query", run.uri, "select key from images", "--format", "csv").splitlines()
        if line.startswith(("=", "-", "+", "@"))
    ]


def test_what_is_written_stays_where_it_was_asked_for(run, call, tmp_path):
    before = set(Path(run.uri).parent.rglob("*"))
    call("status", run.uri)
    call("show", run.uri, *run.index["key"].to_pylist()[:4], "-o", "drawn.png")
    call("export", run.uri, "--format", "png", "-o", "exported")
    call("report", run.uri, "-o", "site")
    assert {path.name for path in tmp_path.iterdir()} == {"drawn.png", "exported", "site"}
    beside = set(Path(run.uri).parent.rglob("*")) - before
    assert all(path.is_relative_to(run.uri) for path in beside)  # the report keeps what it measured with the run
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[\w.-]+", name) for name in written)


def test_a_report_holds_no_markup_of_a_name(run, call, tmp_path):
    call("report", run.uri, "-o", "site")
    page = (tmp_path / "site" / "index.html").read_text()
    assert "onerror" in page  # as text, within the data
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert not ACTIVE & set(page) - {"\u202e"}


@pytest.mark.parametrize("name", ["../../outside.png", "/tmp/outside.png", "a/../../outside.png"])
def test_an_archive_that_points_outside_is_refused(tmp_path, name):
    sink = io.BytesIO()
    Image.new("RGB", (20, 20)).save(sink, format="PNG")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(sink.getvalue())
        archive.addfile(member, io.BytesIO(sink.getvalue()))
    with pytest.raises(DatasetError, match="leads out of the archive"):
        tiny.new_run(tmp_path / "photos.tar", tmp_path / "run", methods=("saliency",))
    assert {path.name for path in tmp_path.iterdir()} == {"photos.tar"}
