"""Nothing of the environment's secrets is written: not in the run's files, nor in what the program says, nor in a manifest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import cli
from commands import frame
from tests.jobs.canaries import CANARIES, MARK, singing_files, sung
from tests.jobs.tiny import MODEL, photographs

TOP = Path(__file__).resolve().parents[2]


def test_the_search_finds_a_canary(tmp_path):
    """In a file of any depth, and in a text; or the tests below could not fail."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text(json.dumps({"environment": CANARIES}))
    assert singing_files(tmp_path) == [str(tmp_path / "a" / "run.json")]
    assert sung("quiet", f"token={CANARIES['HF_TOKEN']}")
    assert not sung("quiet")


@pytest.mark.ray
def test_a_run_repeats_no_secret(tmp_path):
    """A run that has a broken image too: the error's text goes into a table and a log."""
    photographs(tmp_path / "data", 2)
    (tmp_path / "data" / "class0" / "bad.jpg").write_text("no picture")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | CANARIES
    environment |= {
        "HOME": str(tmp_path),
        "RAY_AUTH_TOKEN": "canary-3f7a-ray-token-of-32-characters",
        "OMP_NUM_THREADS": "1",
    }
    asked = [
        "--dataset",
        tmp_path / "data",
        "--method",
        "saliency",
        "--model",
        MODEL,
        "--output",
        tmp_path / "run",
    ]
    done = subprocess.run(
        [sys.executable, TOP / "cli.py", "submit", *asked, "--workers", "1", "--debug"],
        env=environment | {"ASCRIBE_DASHBOARD": "off"},
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == frame.WITH_FAILURES, done.stderr
    assert singing_files(tmp_path / "run") == []
    assert not sung(done.stdout, done.stderr)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "run").rglob("*.parquet"))]
    assert tables
    assert not sung(*(str(table.to_pylist()) for table in tables))  # as text, since Parquet compresses


@pytest.mark.parametrize("overlay", ["gpu", "cpu-local"])
def test_a_manifest_repeats_no_secret(overlay, monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    asked = ["--dataset", "sample", "--method", "saliency", "--output", "s3://bucket/run", "--overlay", overlay]
    result = CliRunner().invoke(cli.main, ["k8s", "render", *asked], catch_exceptions=False)
    assert "kind: RayJob" in result.stdout
    assert MARK.decode() not in result.output
