"""Photograph a report for the pages here: `python docs/make_screenshots.py RUN` (needs Chromium and the test extra)."""

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "tests")]
from browser import chromium, resize  # noqa: E402  # docs and tests are no packages

from docs.make_pictures import PICTURES, shrink  # noqa: E402
from jobs.report import write_report  # noqa: E402
from storage.run import Run  # noqa: E402

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


def main(run: str) -> None:
    with tempfile.TemporaryDirectory() as folder, chromium() as page:
        address = write_report(Run.open(run), folder).as_uri()
        for name, (width, height, dark, view, click) in SHOTS.items():
            resize(page, width, height, dark=dark)
            page.get("about:blank")
            page.get(address + view)
            time.sleep(1)  # pictures below the fold need not have come
            if click:
                page.find_element("css selector", click).click()
                time.sleep(1)
            shot = Path(folder) / f"{name}.png"
            page.save_screenshot(str(shot))
            shrink(shot, PICTURES / shot.name)


if __name__ == "__main__":
    main(sys.argv[1])
