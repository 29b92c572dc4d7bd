"""The report holds what the run holds, in one page that needs nothing else, and keeps names as text."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from fake_runs import CAM, IG, fake_run
from PIL import Image

from jobs.kept import kept
from jobs.page import embedded_json, render
from jobs.payload import payload, rounded
from jobs.report import write_report
from jobs.run_page import failure_reasons
from jobs.scales import shared_scales
from jobs.survey import survey
from jobs.thumbnails import fitted, strip
from jobs.views import View

HOSTILE = {
    2: "<img src=x onerror=alert(1)>.jpg",
    3: "</script><script>alert(1)</script>",
    4: "{{script}} & 'quotes\".jpg",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = fake_run(folder, 24, keys=HOSTILE, empty=(9,))
    done = []
    page = write_report(run, folder / "site", progress=done.append)
    return run, page, done


def embedded(page):
    return json.loads(
        re.search(r'<script type="application/json" id="payload">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    )


def test_every_image_of_every_method_is_in_the_page(site):
    run, page, done = site
    told = embedded(page)
    assert sum(done) == 24
    assert told["images"]["image"] == [row for row in range(24) if row != 5]
    assert told["images"]["key"][2] == HOSTILE[2]
    summary = run.summary().to_pylist()
    for method in told["methods"]:
        mine = {row["image"]: row["abs_sum"] for row in summary if row["method"] == method["expression"]}
        assert told["values"][method["group"]]["abs_sum"] == pytest.approx(
            [mine[i] for i in told["images"]["image"]], rel=1e-3
        )  # 4 digits are told


def test_missing_numbers_are_null_and_no_column_is_empty(site):
    told = embedded(site[1])
    assert "convergence_delta" not in told["values"]["saliency"]
    assert told["values"]["integrated_gradients"]["completeness_error"][0] == 0.04
    position = told["images"]["image"].index(9)  # its maps are empty: they lie nowhere
    assert told["values"]["saliency"]["centre_share"][position] is None
    assert told["images"]["disagreement"][position] is None
    assert told["images"]["disagreement"][0] is not None


def test_thumbnails_lie_where_the_page_looks(site):
    _, page, _ = site
    for image in embedded(page)["images"]["image"]:
        with Image.open(page.parent / "thumbs" / "0" / f"{image}.jpg") as picture:
            assert picture.size == (7 * 176, 176)  # the photograph, three maps, three maps on the shared scale
    for line in embedded(page)["perClass"]:
        with Image.open(page.parent / "thumbs" / "class" / f"{line['id']}.jpg") as picture:
            assert picture.size == (3 * 112, 112)


def test_nothing_in_the_page_reaches_out(site):
    text = site[1].read_text()
    outside = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert outside <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert text.count("<script") == 2  # the payload and the page's own


def test_names_cannot_end_the_payload(site):
    text = site[1].read_text()
    for name in HOSTILE.values():
        assert name not in text.replace(json.dumps(name), "")
    assert json.loads(embedded_json({"a": "</script><!--&"})) == {"a": "</script><!--&"}


def test_title_is_escaped():
    told = {"title": "<b>run</b>{{script}}"}
    assert "<title>&lt;b&gt;run&lt;/b&gt;{{script}} · Ascribe</title>" in render(told)


def test_failures_are_counted_by_reason(site):
    told = embedded(site[1])["failures"]
    assert [(each["stage"], each["error"], each["count"]) for each in told] == [
        ("decode", "damaged picture: <i>truncated</i>", 1)
    ]


def test_failures_that_name_their_image_are_one_reason(tmp_path):
    run = fake_run(tmp_path, 10, failed=(1, 4))
    table = run.failures()
    named = table.set_column(
        table.column_names.index("error"), "error", [[f"{key} is broken" for key in table["key"].to_pylist()]]
    )
    assert [(each["error"], each["count"]) for each in failure_reasons(named)] == [("… is broken", 2)]


def test_throughput_grows_to_all_images(site):
    points = embedded(site[1])["throughput"]
    assert points == [[0.0, 8], [10.0, 16], [20.0, 24]]


def test_partial_run_says_what_is_missing(tmp_path):
    run = fake_run(tmp_path, 24, units=range(1, 2))
    view = View(run)
    told = payload(view, *kept(view), "serve")
    assert told["images"]["image"] == list(range(8, 16))
    assert ["Still to do", "16"] in told["tiles"]


def test_run_without_maps_still_has_numbers(tmp_path):
    run = fake_run(tmp_path, 10, store="none")
    told = embedded(write_report(run, tmp_path / "site"))
    assert [each["group"] for each in told["methods"]] == ["integrated_gradients", "saliency", "grad_cam"]
    assert told["values"]["saliency"]["abs_sum"]


def test_run_without_a_finished_image_is_a_page_too(tmp_path):
    told = embedded(write_report(fake_run(tmp_path, 5, failed=tuple(range(5))), tmp_path / "site"))
    assert told["images"]["image"] == []
    assert told["failures"][0]["count"] == 5


def test_mean_map_lies_where_the_blobs_are(tmp_path):
    run = fake_run(tmp_path, 24, failed=())
    view = View(run)
    same_place = np.where(np.arange(24) % 10 == 0, 0, -1)  # blobs repeat after ten images
    grid = survey(view, same_place).mean_maps[CAM.group][0]
    y, x = np.unravel_index(grid.argmax(), grid.shape)
    assert (y / grid.shape[0], x / grid.shape[1]) == pytest.approx(
        (0.25, 0.25), abs=0.1
    )  # a pixel of the 6x6 map is 0.17 wide
    assert grid.sum() == pytest.approx(64 * 1.0, rel=0.05)  # (48/6)^2 pixels a CAM pixel, all attribution counted once


def test_shared_scale_withstands_an_outlier(tmp_path):
    run = fake_run(tmp_path, 24)
    scales = shared_scales(View(run))
    assert set(scales) == {spec.group for spec in run.arrays}
    strongest = np.nanmax(np.abs(run.attributions(IG.group)[:].sum(axis=1)))
    assert 0 < scales[IG.group] < strongest


def test_strip_keeps_proportions_and_draws_empty_maps_grey():
    photograph = np.full((20, 40, 3), 200, np.uint8)
    content = strip(photograph, [np.zeros((5, 10))], [0.0], 32)
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (32, 96, 3)
    assert np.ptp(pixels[16, 40:56], axis=1).max() <= 2  # grey up to JPEG's rounding
    assert fitted((20, 40), 32) == (16, 32)


def test_rounding_keeps_four_digits_and_drops_what_is_not_finite():
    assert rounded(np.array([0.123456, 123456.0, 0.0, np.nan, np.inf, -1e-9])) == [
        0.1235,
        123500.0,
        0.0,
        None,
        None,
        -1e-9,
    ]


def test_report_needs_neither_torch_nor_ray():
    code = "import sys, jobs.report, jobs.show; print([m for m in ('torch', 'ray', 'matplotlib.pyplot') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
