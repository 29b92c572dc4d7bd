"""ViRelAy's project files, in the form its reader accepts (virelay 0.4: model.py, image_processing.py), which is narrower than its document.

- An attribution is found through `index`; without it a missing image would shift all that follow.
- A map must have three axes, the first the shortest, or the reader takes rows for channels; with a single channel its plain
  heat map fails, so a one-channel map is spread evenly over three: the reader draws their sum.
- An image's label must be in the label map, so unlabelled images get the entry -1.
- Without an analysis nothing is shown: each class gets the two main components of its maps, clustered by prediction.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from attribution.visualization import enlarge, plane
from jobs.export import CHUNK, ExportError, Progress, chunks
from jobs.views import View
from storage.records import ArraySpec
from storage.run import Run

CHANNELS = 3
GRID = 16  # side of the maps that the components are computed from
UNLABELLED = -1


def write_project(run: Run, target: Path, *, progress: Progress | None = None) -> list[Path]:
    """One project a method, over one shared data set and label map."""
    h5py = _h5py()
    view = View(run)
    paths = [_write_images(h5py, view, target), _write_labels(view, target)]
    for spec in view.pictured:
        rows = _finished(run, spec)
        paths.append(_write_maps(h5py, view, spec, rows, target, progress))
        paths.append(_write_analysis(h5py, view, spec, rows, target))
        paths.append(_write_description(view, spec, target))
    return paths


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ExportError("hdf5-virelay needs h5py; install it with: pip install 'ascribe[export]'") from None
    return h5py


def _finished(run: Run, spec: ArraySpec) -> list[dict[str, Any]]:
    table = run.summary()
    return list(table.filter(pc.equal(table["method"], spec.expression)).sort_by("image").to_pylist())


def _write_images(h5py: Any, view: View, target: Path) -> Path:
    """Every image of the index, so that an image's number is its place."""
    path = target / "dataset.h5"
    labels = (
        view.run.index["label"].fill_null(UNLABELLED).to_numpy()
        if "label" in view.run.index.column_names
        else np.full(view.run.image_count, UNLABELLED)
    )
    with h5py.File(path, "w") as file:
        height, width = view.preprocessing.crop
        images = file.create_dataset(
            "data",
            (view.run.image_count, CHANNELS, height, width),
            np.uint8,
            chunks=(1, CHANNELS, height, width),
            compression="gzip",
            compression_opts=1,
        )
        for rows in chunks(np.arange(view.run.image_count), None):
            images[rows] = view.photographs(rows.tolist()).transpose(0, 3, 1, 2)
        file["label"] = labels.astype(np.int64)
        file["index"] = np.arange(view.run.image_count)
    return path


def _write_labels(view: View, target: Path) -> Path:
    summary = view.run.summary()
    known = {number for name in ("label", "prediction") for number in summary[name].drop_null().to_pylist()}
    if "label" in view.run.index.column_names:
        known |= set(view.run.index["label"].drop_null().to_pylist())
    numbers = sorted(known | set(view.class_names) | {UNLABELLED})
    path = target / "label-map.json"
    path.write_text(
        json.dumps(
            [
                {"index": number, "word_net_id": _category(number), "name": view.class_name(number)}
                for number in numbers
            ],
            ensure_ascii=False,
        )
    )
    return path


def _category(number: int) -> str:
    """The word by which an analysis names a class: the reader looks categories up among the WordNet ids."""
    return "unlabelled" if number < 0 else f"class-{number:05d}"


def _write_maps(
    h5py: Any,
    view: View,
    spec: ArraySpec,
    rows: list[dict[str, Any]],
    target: Path,
    progress: Progress | None,
) -> Path:
    path = target / f"{spec.group}-attributions.h5"
    height, width = spec.shape[-2:]
    class_count = 1 + max([row["prediction"] or 0 for row in rows] + list(view.class_names), default=0)
    with h5py.File(path, "w") as file:
        maps = file.create_dataset(
            "attribution",
            (len(rows), CHANNELS, height, width),
            np.float32,
            chunks=(1, CHANNELS, height, width),
            compression="gzip",
            compression_opts=1,
        )
        scores = file.create_dataset(
            "prediction", (len(rows), class_count), np.float32, chunks=(1, class_count), compression="gzip"
        )
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            stored = view.run.attributions(spec.group)[np.array([row["image"] for row in part], np.int64)]
            maps[first : first + len(part)] = np.stack([_three_channels(values) for values in stored])
            scores[first : first + len(part)] = _one_known_score(part, class_count)
            if progress:
                progress(len(part))
        file["label"] = np.array([UNLABELLED if row["label"] is None else row["label"] for row in rows], np.int64)
        file["index"] = np.array([row["image"] for row in rows], np.int64)
    return path


def _three_channels(values: NDArray[np.floating]) -> NDArray[np.floating]:
    if values.ndim == CHANNELS and values.shape[0] == CHANNELS:
        return values
    return np.repeat(plane(values)[None] / CHANNELS, CHANNELS, axis=0)


def _one_known_score(rows: list[dict[str, Any]], class_count: int) -> NDArray[np.float32]:
    """A run keeps the predicted class and its probability; the other scores are left 0."""
    scores = np.zeros((len(rows), class_count), np.float32)
    for position, row in enumerate(rows):
        if row["prediction"] is not None:
            scores[position, row["prediction"]] = row["probability"]
    return scores


def _write_analysis(h5py: Any, view: View, spec: ArraySpec, rows: list[dict[str, Any]], target: Path) -> Path:
    path = target / f"{spec.group}-analysis.h5"
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(UNLABELLED if row["label"] is None else row["label"], []).append(row)
    with h5py.File(path, "w") as file:
        for number, members in sorted(groups.items()):
            images = np.array([row["image"] for row in members], np.int64)
            maps = np.stack(
                [enlarge(np.abs(plane), (GRID, GRID)).ravel() for plane in view.planes(spec.group, images.tolist())]
            )
            coordinates, variances = _components(maps)
            category = file.create_group(_category(number))
            category["index"] = images
            category["embedding/pca"] = coordinates
            category["embedding/pca"].attrs["eigenvalue"] = variances
            category["cluster/prediction"] = np.unique(
                [row["prediction"] if row["prediction"] is not None else -1 for row in members], return_inverse=True
            )[1]
    return path


def _components(maps: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Two principal coordinates of each map and the variance along them."""
    centred = maps - maps.mean(axis=0)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(maps), 2))
    kept = min(2, len(strength))
    coordinates[:, :kept] = left[:, :kept] * strength[:kept]
    return coordinates, strength[:2] ** 2 / max(1, len(maps) - 1)


def _write_description(view: View, spec: ArraySpec, target: Path) -> Path:
    asked = view.run.spec.get("spec", {})
    height, width = view.preprocessing.crop
    strategy = "true_label" if spec.attributes.get("target") == "label" else "predicted_label"
    project = {
        "name": f"{asked.get('dataset', 'data set')}, {spec.expression}",
        "model": str(asked.get("model", "model")),
        "label_map": "label-map.json",
        "dataset": {
            "name": str(asked.get("dataset", "data set")),
            "type": "hdf5",
            "path": "dataset.h5",
            "input_width": width,
            "input_height": height,
            "down_sampling_method": "none",
            "up_sampling_method": "none",
        },
        "attributions": {
            "attribution_method": spec.expression,
            "attribution_strategy": strategy,
            "sources": [f"{spec.group}-attributions.h5"],
        },
        "analyses": [{"analysis_method": "principal_components", "sources": [f"{spec.group}-analysis.h5"]}],
    }
    path = target / f"{spec.group}.yaml"
    path.write_text(yaml.safe_dump({"project": project}, sort_keys=False, allow_unicode=True))
    return path
