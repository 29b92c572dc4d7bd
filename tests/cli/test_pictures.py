"""The commands that look and ask: their happy paths, and what their likeliest mistakes are told."""

import csv
import io
import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner
from fake_runs import CAM, IG, SALIENCY, fake_run
from PIL import Image

import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("cli"), 24, keys={7: "cats/seven.jpg", 8: "12"}).uri


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*words, code=0):
        done = CliRunner().invoke(cli.main, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done

    return invoke


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_show_one_image_by_number_key_or_key_that_is_a_number_of_no_row(call, run):
    call("show", run, 3, "-o", "number.png")
    call("show", run, "photo-00003.jpg", "-o", "key.png")
    assert Path("number.png").read_bytes() == Path("key.png").read_bytes()
    call("show", run, "cats/seven.jpg", "--methods", "grad_cam,integrated_gradients(n_steps=8)")
    assert size("show.png")[0] > 600


def test_show_a_selection_in_its_order(call, run):
    done = call(
        "show",
        run,
        "--where",
        "prediction <> label",
        "--order",
        "abs_sum desc",
        "--limit",
        2,
        "--scale",
        "shared",
        "-o",
        "wrong.png",
    )
    assert done.stdout == "wrong.png\n"
    from jobs.show import chosen_rows
    from storage.run import Run

    rows = chosen_rows(
        Run.open(run), [], where="prediction <> label and name = 'saliency'", order="abs_sum desc", limit=3
    )
    summary = {row["image"]: row for row in Run.open(run).summary().to_pylist() if row["name"] == "saliency"}
    wrong = sorted(
        (i for i, row in summary.items() if row["label"] is not None and row["label"] != row["prediction"]),
        key=lambda i: -summary[i]["abs_sum"],
    )
    assert rows == wrong[:3]


def test_a_failed_image_is_shown_as_one(call, run):
    call("show", run, 5, "-o", "failed.png")
    assert size("failed.png")


def test_a_picture_s_folder_is_made(call, run):
    assert call("show", run, 1, "-o", "new/folder/one.png").stdout.strip() == "new/folder/one.png"
    assert size("new/folder/one.png")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "a run and SQL are wanted; try: cli.py query runs/demo"),
        (("RUN", "select 1"), "the same run is named twice"),
        (("select nose from summary",), '"nose" not found'),
        (("drop table summary",), "one SELECT is wanted, not DROP"),
        (("select 1", "--tensors", "maps.nc"), "must end in .npz or .zarr"),
    ],
)
def test_query_says_the_way_out(call, run, words, told):
    done = call("query", run, *(run if word == "RUN" else word for word in words), code=2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no image named; give a row number, a key, or --where"),
        (("99",), "no image '99': rows are 0 to 23, keys are like 'photo-00000.jpg'"),
        (("3", "--where", "1=1"), "name images, or select them"),
        (("3", "--methods", "lrp"), "no maps of 'lrp' to show; this run has integrated_gradients"),
        (("--where", "image > 900"), "no image has image > 900"),
        (("--where", "nose = 1"), "nose"),
    ],
)
def test_show_says_the_way_out(call, run, words, told):
    done = call("show", run, *words, code=2)
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_query_formats_hold_the_same_rows(call, run):
    sql = "select image, key, abs_sum from summary where name = 'saliency' and image < 3 order by image"
    rows = json.loads(call("query", run, sql, "--json").stdout)
    assert [row["image"] for row in rows] == [0, 1, 2]
    read = list(csv.DictReader(io.StringIO(call("query", run, sql, "--format", "csv").stdout)))
    assert [float(row["abs_sum"]) for row in read] == [row["abs_sum"] for row in rows]
    call("query", run, sql, "--format", "parquet", "-o", "rows.parquet")
    assert pq.read_table("rows.parquet").to_pylist() == rows
    assert "photo-00002.jpg" in call("query", run, sql).stdout


def test_query_over_several_runs_has_a_column_run(call, run, tmp_path):
    other = fake_run(tmp_path / "other", 4, arrays=(CAM,)).uri
    rows = json.loads(
        call("query", run, other, "select run, count(*) as n from summary group by run order by n", "--json").stdout
    )
    assert rows == [{"run": other, "n": 4}, {"run": run, "n": 69}]


@pytest.mark.parametrize("ending", ["npz", "zarr"])
def test_query_exports_the_maps_of_its_rows(call, run, ending):
    from storage.run import Run

    call(
        "query",
        run,
        "select image, method from summary where name <> 'saliency' and image in (4, 2) order by image desc",
        "--tensors",
        f"maps.{ending}",
    )
    read = np.load("maps.npz") if ending == "npz" else zarr.open_group("maps.zarr", mode="r")
    assert sorted(read) == ["grad_cam", "grad_cam.image", "integrated_gradients", "integrated_gradients.image"]
    assert np.asarray(read["grad_cam.image"]).tolist() == [4, 2]
    assert np.array_equal(np.asarray(read[IG.group]), Run.open(run).attributions(IG.group)[[4, 2]])


@pytest.mark.parametrize(
    ("sql", "target", "told"),
    [
        ("select key from summary", "a.npz", "needs the column image"),
        ("select image from summary", "a.txt", "must end in .npz or .zarr"),
        ("select image from summary where false", "a.npz", "no row with maps"),
    ],
)
def test_tensors_without_rows_say_what_is_missing(call, run, sql, target, told):
    assert told in call("query", run, sql, "--tensors", target, code=2).stderr


def test_report_writes_a_page_and_what_it_found_can_be_asked(call, tmp_path):
    run = fake_run(tmp_path / "fresh", 12).uri
    done = call("report", run, "-o", "site")
    assert done.stdout.strip() == "site/index.html"
    assert Path("site/index.html").exists()
    rows = json.loads(call("query", run, "select count(*) as n from places", "--json").stdout)
    assert rows == [{"n": 33}]
    assert (
        json.loads(call("query", run, "select count(distinct metric) as n from class_statistics", "--json").stdout)[0][
            "n"
        ]
        > 10
    )


def test_compare_prints_classes_and_movers_and_keeps_them(call, run):
    told = json.loads(call("compare", run, "--methods", IG.group, SALIENCY.group, "--limit", 3, "--json").stdout)
    assert len(told["movers"]) == 3
    assert sum(row["count"] for row in told["by_class"]) == 23
    assert json.loads(call("query", run, "select count(*) as n from comparisons", "--json").stdout) == [{"n": 23}]
    assert [row["count"] for row in told["overall"]] == [23]
    shown = call("compare", run, run, "--methods", IG.group, CAM.group, "--measure", "ssim", "--limit", 2, "--no-keep")
    assert shown.stdout.startswith("ssim\n")
    assert "classes that agree least (2 of 5)" in shown.stdout
    means = [row["mean"] for row in told["by_class"]]
    assert means == sorted(means)


def test_compare_says_the_way_out(call, run):
    assert "needs two of its methods" in call("compare", run, code=2).stderr
    assert (
        "none of spearman"
        in call("compare", run, "--methods", IG.group, CAM.group, "--measure", "nearness", "--no-keep", code=2).stderr
    )


def test_export_names_its_files(call, run):
    assert call("export", run, "--format", "npz", "-o", "maps").stdout.split() == [
        f"maps/{spec.group}.npz" for spec in (IG, SALIENCY, CAM)
    ]


def test_a_reader_that_has_seen_enough_is_no_error(run):
    command = f"{sys.executable} cli.py query {run} 'select * from range(200000)' --format csv | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("range\n", "")


def test_serve_prints_its_address_and_answers(run):
    command = [sys.executable, str(ROOT / "cli.py"), "serve", run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        timer = threading.Timer(60, server.kill)
        timer.start()
        try:
            address = server.stdout.readline().strip()
            with urllib.request.urlopen(address) as answer:
                assert b"photo-00001.jpg" in answer.read()
        finally:
            server.terminate()
            timer.cancel()
