"""`export`: a run's maps as files that other programs read: npz, npy, png, and ViRelAy's HDF5 project."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from attribution.visualization import colours, full_colour, is_one_sided, normalise, plane
from jobs.views import View
from storage.records import ArraySpec
from storage.run import Run

Format = Literal["npz", "npy", "png", "hdf5-virelay"]
Progress = Callable[[int], None]
CHUNK = 32  # images in memory at once


class ExportError(ValueError):
    """What was asked for cannot be exported; the message says what can."""


def export(run: Run, directory: str | Path, form: str, *, progress: Progress | None = None) -> list[Path]:
    """Write every finished map into `directory`; returns the files, of png the folders."""
    if form not in get_args(Format):
        raise ExportError(f"format {form!r} is none of {', '.join(get_args(Format))}")
    if run.record.store == "none":
        raise ExportError("this run was made with --store none: it has summaries and no maps")
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    if form == "hdf5-virelay":
        from jobs.virelay import write_project

        return write_project(run, target, progress=progress)
    writers = {"npz": _npz, "npy": _npy, "png": _png}
    return [path for spec in run.arrays for path in writers[form](View(run), spec, target, progress)]


def finished(run: Run, spec: ArraySpec) -> NDArray[np.int64]:
    """Row numbers of the images that have a map."""
    table = run.summary()
    mine = table.filter(pc.equal(table["method"], spec.expression))
    return np.sort(np.asarray(mine["image"].to_numpy()))


def chunks(rows: NDArray[np.int64], progress: Progress | None) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), CHUNK):
        yield rows[first : first + CHUNK]
        if progress:
            progress(len(rows[first : first + CHUNK]))


def _npz(view: View, spec: ArraySpec, target: Path, progress: Progress | None) -> list[Path]:
    """One archive a method: the maps, whose they are, and the numbers of the summary; fits in memory or should be npy."""
    rows = finished(view.run, spec)
    maps = [view.run.attributions(spec.group)[part] for part in chunks(rows, progress)]
    keys = np.array(view.run.index["key"].take(rows).to_pylist(), dtype=np.str_)
    path = target / f"{spec.group}.npz"
    stacked = np.concatenate(maps) if maps else np.empty((0, *spec.shape), np.float32)
    np.savez_compressed(path, attribution=stacked, image=rows, key=keys, expression=np.array(spec.expression))
    return [path]


def _npy(view: View, spec: ArraySpec, target: Path, progress: Progress | None) -> list[Path]:
    """One memory-mappable array a method over all images, NaN where there is none, and a JSON file that says whose rows they are."""
    attributions = view.run.attributions(spec.group)
    path = target / f"{spec.group}.npy"
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=attributions.shape)
    for part in chunks(np.arange(view.run.image_count), progress):
        whole[part] = attributions[part]
    whole.flush()
    about = {"expression": spec.expression, "dims": attributions.dims, "keys": view.run.index["key"].to_pylist()}
    described = path.with_suffix(".json")
    described.write_text(json.dumps(about, ensure_ascii=False))
    return [path, described]


def _png(view: View, spec: ArraySpec, target: Path, progress: Progress | None) -> list[Path]:
    """One heat map an image on its own scale, at native resolution, named by row number: keys may hold anything."""
    if spec not in view.pictured:
        return []
    folder = target / spec.group
    folder.mkdir(exist_ok=True)
    for part in chunks(finished(view.run, spec), progress):
        for row, values in zip(part.tolist(), view.run.attributions(spec.group)[part], strict=True):
            flat = plane(values)
            picture = colours(normalise(flat, scale=full_colour(flat)), one_sided=is_one_sided(flat))
            Image.fromarray(picture[:, :, :3]).save(folder / f"{row:06d}.png")
    return [folder]
