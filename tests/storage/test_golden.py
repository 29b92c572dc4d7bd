"""A run of every released format opens for ever: read, queried, verified, and finished by today's code."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from storage.run import Progress, Run
from tests.storage.golden.make import write

GOLDEN = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if (path / "expected.json").exists())


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden(request, tmp_path):
    shutil.copytree(request.param / "run", tmp_path / "run")
    return Run.open(tmp_path / "run"), json.loads((request.param / "expected.json").read_text())


def test_there_is_one():
    assert GOLDEN


def test_it_reads_as_when_it_was_written(golden):
    run, expected = golden
    assert run.spec == {"model": "golden", "seed": 0}
    assert run.summary().to_pylist() == expected["summary"]
    assert run.failures().to_pylist() == expected["failures"]
    assert run.progress() == Progress(images=7, done=4, failed=1, units=4, committed=3)
    for group, maps in expected["maps"].items():
        np.testing.assert_array_equal(np.nan_to_num(run.attributions(group)[:], nan=-99), np.array(maps, np.float32))
    assert run.sql("select key from failures").to_pylist() == [{"key": "b/3.jpg"}]
    assert run.commit_of(3).attempt == expected["attempt"]
    assert run.commit_of(3).marks == {"torch": "2.13.0", "device": "cpu"}
    assert run.verify().is_sound


def test_other_readers_open_it(golden):
    run, expected = golden
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(f"{run.uri}/attributions.zarr", group="saliency") as found:
            np.testing.assert_array_equal(found.attribution.values[0], np.array(expected["maps"]["saliency"][0], "f4"))


def test_it_can_be_finished(golden):
    run, expected = golden
    assert run.pending() == [2]
    write(run, 2)
    run.compact()
    assert run.progress() == Progress(images=7, done=6, failed=1, units=4, committed=4)
    assert [row for row in run.summary().to_pylist() if row["unit"] != 2] == expected["summary"]
    assert run.verify().is_sound
