"""Promise: the lines a user types work as written, on real files, and end with the code and the words that were promised."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cli
from attribution.methods.noise_tunnel import KINDS
from jobs import submit
from storage.run import Run
from tests.attribution import asking
from tests.jobs import tiny

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(cluster, monkeypatch, tmp_path):
    """`cli.py ...` in this process, on the cluster that all tests share, in an empty folder."""

    @contextmanager
    def shared(*, dashboard):
        yield "no --address or RAY_ADDRESS: running on this machine"

    monkeypatch.setattr(submit, "local_ray", shared)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)

    def invoke(*words, code=0):
        done = CliRunner().invoke(cli.main, [str(word) for word in words])
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    return invoke


ON_ONE_CORE = ("--workers", 1, "--set", "gpus_per_worker=0")


def test_imagenet_val_in_its_true_layout_with_a_random_resnet18(call, tmp_path):
    for number, wnid in enumerate(("n01440764", "n01514859")):
        path = tmp_path / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="JPEG")
    words = ("submit", "--dataset", "imagenet-val", "--method", "saliency", "--model", "resnet18:random")
    call(*words, "--data-root", tmp_path / "imagenet", "--output", "run", *ON_ONE_CORE)
    found = json.loads(
        call("query", "run", "select label, target, prediction from summary order by image", "--json").stdout
    )
    assert [row["label"] for row in found] == [0, 8]
    assert all(row["target"] == row["prediction"] for row in found)
    again = call(*words, "--data-root", tmp_path / "imagenet", "--output", "run", *ON_ONE_CORE)
    assert "2 of 2 images done" in again.stdout


def test_every_method_runs_at_every_place_where_it_can_be_asked(call, tmp_path):
    """One run of all of them: each has its map and its row for each image, and none a failure."""
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    asked = [asking.expression(*where).replace("tail:3,2,3", "block:3,2,3") for where in asking.AT_EVERY_PLACE]
    asked += [f"saliency(noise={kind!r})" for kind in KINDS]
    words = [word for text in asked for word in ("--method", text)]
    call("submit", "--dataset", tmp_path / "photos", "--model", tiny.MODEL, *words, "--output", "run", *ON_ONE_CORE)
    run = Run.open(str(tmp_path / "run"))
    counted = run.sql("select method, count(*) as rows, sum(nonfinite_count) as bad from summary group by method")
    assert counted.num_rows == len(asked)
    assert set(counted["rows"].to_pylist()) == {3}
    assert set(counted["bad"].to_pylist()) == {0}
    assert run.failures().num_rows == 0
    for text in counted["method"].to_pylist():
        assert np.isfinite(run.attributions(text)[0:3]).all(), text


def jpeg(**options):
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(
        sink, "JPEG", **options
    )
    return sink.getvalue()


def test_a_folder_of_horrors(call, tmp_path):
    """Readable ones are attributed, the others are rows in failures with the reason, exit code 3."""
    folder = tmp_path / "horrors"
    folder.mkdir()
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "truncated.jpg").write_bytes(jpeg()[:400])
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("CMYK", (30, 20), (10, 200, 30, 40)).save(folder / "cmyk.jpg")
    Image.fromarray(grey).save(folder / "sixteen.png")
    Image.new("P", (20, 20), 3).save(folder / "palette.png", transparency=0)
    (folder / "rotated.jpg").write_bytes(jpeg(exif=exif))
    Image.new("RGB", (1, 1), "red").save(folder / "one.png")
    Image.new("RGB", (30_000, 30), "blue").save(folder / "strip.png")
    done = call(
        "submit",
        "--dataset",
        folder,
        "--method",
        "saliency",
        "--model",
        tiny.MODEL,
        "--output",
        "run",
        *ON_ONE_CORE,
        code=3,
    )
    assert "6 of 9 images done, 3 failed" in done.stdout
    run = Run.open("run")
    assert {row["key"]: row["stage"] for row in run.failures().to_pylist()} == {
        "text.jpg": "decode",
        "truncated.jpg": "decode",
        "empty.jpg": "decode",
    }
    assert all(row["error"] for row in run.failures().to_pylist())
    maps = run.attributions("saliency")[:]
    failed = {row["image"] for row in run.failures().to_pylist()}
    assert {image for image in range(9) if np.isnan(maps[image]).all()} == failed


def test_a_run_killed_halfway_and_submitted_again_ends_as_an_undisturbed_one(tmp_path):
    """The real program, killed with its Ray; what was committed is not computed again and no bit differs."""
    folder = tiny.photographs(tmp_path / "photographs", 16)
    environment = {
        **os.environ,
        "RAY_AUTH_TOKEN": "0" * 48,
        "ASCRIBE_DASHBOARD": "off",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("RAY_ADDRESS", None)
    words = [sys.executable, str(ROOT / "cli.py"), "submit", "--dataset", str(folder), "--method", "ig(n_steps=300)"]
    words += [
        "--model",
        tiny.MODEL,
        "--workers",
        "1",
        "--set",
        "shard_length=2",
        "--set",
        "rows_per_pass=2",
        "--output",
    ]

    first = subprocess.Popen([*words, str(tmp_path / "run")], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and first.poll() is None:
        if (tmp_path / "run" / "run.json").exists() and len(
            committed := Run.open(str(tmp_path / "run")).committed()
        ) >= 1:
            break
        time.sleep(0.05)
    assert first.poll() is None, "it ended before it could be killed"
    first.send_signal(signal.SIGKILL)
    first.wait()

    run = Run.open(str(tmp_path / "run"))
    committed = run.committed()
    assert 1 <= len(committed) < run.unit_count
    attempts = {unit: run.commit_of(unit).attempt for unit in committed}
    again = subprocess.run(
        [*words, str(tmp_path / "run"), "--json"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["done"] == 16
    assert "resuming" in again.stderr
    run = Run.open(str(tmp_path / "run"))
    assert {unit: run.commit_of(unit).attempt for unit in committed} == attempts
    assert run.verify().is_sound

    direct, _ = tiny.new_run(
        folder, tmp_path / "direct", methods=("ig(n_steps=300)",), shard_length=2, rows_per_pass=2, keep_bits=10
    )
    from tests.jobs.test_faults import attribute, worker_of

    worker = worker_of(direct)
    for unit in range(direct.unit_count):
        attribute(worker, direct, unit)
    assert tiny.contents(run) == tiny.contents(direct)


@pytest.mark.parametrize("mistake", ["--method gradshp", "--method saliency --dataset nowhere"])
def test_a_mistake_in_the_plan_does_not_wait_for_ray(mistake, monkeypatch, tmp_path):
    """Ray takes seconds to come up beside the plan; what the user has to mend is said before, and ends the command."""

    @contextmanager
    def slow(*, dashboard):
        try:
            time.sleep(600)
        finally:
            ended.append("ray")
        yield ""

    ended = []
    monkeypatch.setattr(submit, "local_ray", slow)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["submit", "--dataset", "sample", "--model", tiny.MODEL, *mistake.split()]
    done = CliRunner().invoke(cli.main, words)
    assert (done.exit_code, ended) == (2, ["ray"])
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert mistake.split()[-1] in line


def test_a_mistake_in_the_plan_leaves_no_ray_behind(tmp_path):
    words = ["submit", "--dataset", "sample", "--method", "gradshp", "--output", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE
    )
    assert b"gradshp" in process.communicate()[1]
    assert process.returncode == 2
    patience = time.monotonic() + 60
    while left := [entry.name for entry in Path("/proc").glob("[0-9]*") if session_of(int(entry.name)) == process.pid]:
        assert time.monotonic() < patience, left
        time.sleep(0.1)


def session_of(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
