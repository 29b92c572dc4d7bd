"""`report`: a run as a static site, one HTML file and thumbnails, that opens from disk without server or network."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.class_statistics import class_statistics
from jobs.kept import keep
from jobs.page import render
from jobs.payload import payload
from jobs.scales import shared_scales
from jobs.survey import Chunk, Progress, Survey, survey
from jobs.thumbnails import LARGE, SMALL, class_strip, strip
from jobs.views import Planes, View
from storage.run import Run

PAGE = "index.html"
MANY = 2000  # images: beyond, thumbnails are small ones


def write_report(run: Run, directory: str | Path, *, progress: Progress | None = None) -> Path:
    """Write the site into `directory` and return its page; thumbnails are made in parallel, `progress` is told of images done.

    What it finds out about the maps is kept with the run, where `query` knows it as `places`, `class_statistics` and `mean_maps`.
    """
    view = View(run)
    target = Path(directory)
    side = LARGE if run.image_count <= MANY else SMALL
    scales = shared_scales(view, side)
    for thousand in range(0, run.image_count, 1000):
        (target / "thumbs" / str(thousand // 1000)).mkdir(parents=True, exist_ok=True)

    def write_strips(chunk: Chunk, planes: dict[str, Planes]) -> None:
        photographs = view.photographs(chunk.rows.tolist())
        for position, row in enumerate(chunk.rows.tolist()):
            content = strip(
                photographs[position],
                [each[position] for each in planes.values()],
                [scales[group] for group in planes],
                side,
            )
            (target / "thumbs" / str(row // 1000) / f"{row}.jpg").write_bytes(content)

    found = survey(view, classes_of(run), on_chunk=write_strips, progress=progress)
    statistics = class_statistics(run.summary(), found.places)
    keep(view, found, statistics)
    write_class_strips(view, found, target / "thumbs" / "class")
    page = target / PAGE
    page.write_text(render(payload(view, found, statistics, "static")), encoding="utf-8")
    return page


def classes_of(run: Run) -> NDArray[np.int64]:
    """(images,) the label, or the prediction of an image without one; -1 where there is neither."""
    summary = run.summary()
    classes = np.full(run.image_count, -1)
    for name in ("prediction", "label"):
        known = summary.filter(summary[name].is_valid())
        classes[known["image"].to_numpy()] = known[name].to_numpy()
    return classes


def write_class_strips(view: View, found: Survey, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in sorted({kind for by_class in found.mean_maps.values() for kind in by_class}):
        (folder / f"{kind}.jpg").write_bytes(class_strip(found.means_of(kind, view), SMALL))


def places_table(run: Run) -> pa.Table:
    """Border, corner and centre share of every map, for those who ask in Python rather than look."""
    return survey(View(run), classes_of(run)).places
