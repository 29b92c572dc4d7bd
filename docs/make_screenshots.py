"""Photograph a report for the pages here: `python docs/make_screenshots.py [RUN]` (needs Chromium and the test and sample extras).

Without a run it makes one: 250 crops of scikit-image's photographs, three methods, and a file that is no picture.
"""

import csv
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "tests")]
from browser import chromium, resize  # noqa: E402  # docs and tests are no packages

from docs.blocks import ROOT  # noqa: E402
from docs.make_pictures import PICTURES, shrink  # noqa: E402
from jobs.datasets import index_dataset  # noqa: E402
from jobs.report import write_report  # noqa: E402
from storage.run import Run  # noqa: E402

LABELS = {"chelsea": 285, "clock_motion": 409, "coffee": 967, "motorcycle_left": 670, "rocket": 657}  # of ImageNet
UNLABELLED = ("astronaut", "camera", "coins", "hubble_deep_field", "moon")
CROPS = 25  # of each
METHODS = ("ig(n_steps=8)", "saliency", "gradcam")
MIXED = "#gallery?sort=%22centre_x%22&correct=%22right%22"  # an order that has nothing to do with names
# name -> width, height, dark, address, what to click first
SHOTS = {
    "report-overview-light": (1280, 900, False, "#overview", None),
    "report-gallery-light": (1280, 900, False, MIXED, None),
    "report-distributions-light": (1280, 900, False, "#distributions", None),
    "report-classes-dark": (1280, 900, True, "#classes", None),
    "report-image-dark": (1280, 900, True, MIXED, "[data-position='1']"),
    "report-overview-phone-light": (375, 760, False, "#overview", None),
    "report-gallery-phone-dark": (375, 760, True, MIXED, None),
}


def make_run(folder: Path) -> str:
    """The run of the screenshots, in `folder`."""
    make_crops(folder / "photographs")
    methods = [word for method in METHODS for word in ("--method", method)]
    command = [sys.executable, ROOT / "cli.py", "submit", "--dataset", "photographs", "--output", "run"]
    # Exit code 3: finished, with the failure that is wanted.
    subprocess.run([*command, "--model", "efficientnet_lite0", *methods], cwd=folder, check=False)  # noqa: S603
    return str(folder / "run")


def make_crops(folder: Path) -> None:
    folder.mkdir()
    index = index_dataset("sample").index
    places = dict(zip((key.split(".")[0] for key in index["key"].to_pylist()), index["uri"].to_pylist(), strict=True))
    with (folder / "labels.csv").open("w", newline="") as file:
        labels = csv.writer(file)
        labels.writerow(["key", "label"])
        for name in (*LABELS, *UNLABELLED):
            with Image.open(places[name]) as opened:
                photograph = opened.convert("RGB")
            for number in range(CROPS):
                key = f"{name}-{number:02d}.jpg"
                crop(photograph, zlib.crc32(key.encode())).save(folder / key, quality=90)
                if name in LABELS:
                    labels.writerow([key, LABELS[name]])
    (folder / "torn.jpg").write_bytes((folder / "coffee-00.jpg").read_bytes()[:300])


def crop(photograph: Image.Image, seed: int) -> Image.Image:
    """A square of at least half the shorter side, somewhere in the photograph."""
    rng = np.random.default_rng(seed)
    side = round(min(photograph.size) * rng.uniform(0.5, 1))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    return photograph.crop((left, top, left + side, top + side)).resize((288, 288), Image.Resampling.BICUBIC)


def photograph_report(run: str, folder: Path) -> None:
    with chromium() as page:
        address = write_report(Run.open(run), folder / "report").as_uri()
        for name, (width, height, dark, view, click) in SHOTS.items():
            resize(page, width, height, dark=dark)
            page.get("about:blank")
            page.get(address + view)
            time.sleep(1)  # pictures below the fold need not have come
            if click:
                page.find_element("css selector", click).click()
                time.sleep(1)
            shot = folder / f"{name}.png"
            page.save_screenshot(str(shot))
            shrink(shot, PICTURES / shot.name)


def main(run: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photograph_report(run or make_run(Path(folder)), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
