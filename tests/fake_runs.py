"""Runs without an engine: synthetic photographs of a bright blob each, and maps that know where the blob is."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from storage import layout
from storage.records import ArraySpec, Failure, Result
from storage.run import Run

BEGUN = 1_700_000_000.0  # when the first unit was committed; each next one ten seconds later
CLASSES = ["tench", "cock", "hen", "<b>owl</b>"]
IG = ArraySpec(
    group="integrated_gradients",
    expression="integrated_gradients(n_steps=8)",
    dims=("channel", "y", "x"),
    shape=(3, 48, 48),
)
SALIENCY = ArraySpec(group="saliency", expression="saliency", dims=("channel", "y", "x"), shape=(3, 48, 48))
CAM = ArraySpec(
    group="grad_cam",
    expression='grad_cam(at="layer4")',
    dims=("grad_cam_c", "grad_cam_y", "grad_cam_x"),
    shape=(1, 6, 6),
)
ARRAYS = (IG, SALIENCY, CAM)


def photographs(
    folder: Path, count: int, *, size: int = 48, keys: dict[int, str] | None = None, seed: int = 0
) -> pa.Table:
    """JPEG files and their index; `keys` renames some."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in range(count):
        path = folder / f"{image:05d}.jpg"
        Image.fromarray(_picture(image, size, seed)).save(path, quality=90)
        rows.append(
            {
                "image": image,
                "key": (keys or {}).get(image, f"photo-{image:05d}.jpg"),
                "uri": str(path),
                "offset": None,
                "length": None,
                "label": None if image % 11 == 10 else image % len(CLASSES),
            }
        )
    schema = pa.schema(
        [
            ("image", pa.int64()),
            ("key", pa.string()),
            ("uri", pa.string()),
            ("offset", pa.int64()),
            ("length", pa.int64()),
            ("label", pa.int32()),
        ]
    )
    return pa.Table.from_pylist(rows, schema)


def fake_run(
    folder: Path,
    count: int = 24,
    *,
    arrays: tuple[ArraySpec, ...] = ARRAYS,
    shard_length: int = 8,
    units: range | None = None,
    store: str = "full",
    keys: dict[int, str] | None = None,
    failed: tuple[int, ...] = (5,),
    empty: tuple[int, ...] = (),
    seed: int = 0,
    size: int = 48,
) -> Run:
    """A finished run (or the given units of it) at `folder`/run. Images in `failed` are quarantined, those in `empty` have zero maps."""
    index = photographs(folder / "photographs", count, size=size, keys=keys)
    spec = {
        "run_id": "fake",
        "identity": {"preprocessing": {"resize": size, "crop": [size, size], "interpolation": "bilinear"}},
        "spec": {"dataset": "synthetic blobs", "model": "none", "methods": [each.expression for each in arrays]},
    }
    run = Run.create(folder / "run", spec, index, arrays, shard_length, store, 10, origin={"class_names": CLASSES})
    for unit in units or range(run.unit_count):
        rows = np.array([row for row in run.unit_rows(unit) if row not in failed], np.int64)
        with run.writing(unit, "test") as out:
            for array in arrays if len(rows) else ():
                maps = np.stack([_map(row, array, seed, is_empty=row in empty) for row in rows])
                out.add(Result(array.group, rows, None if store == "none" else maps, _summary(rows, maps, array)))
            for row in set(failed) & set(run.unit_rows(unit)):
                out.fail(
                    Failure(
                        image=row,
                        key=index["key"][row].as_py(),
                        method=None,
                        stage="decode",
                        error="damaged picture: <i>truncated</i>",
                        attempts=1,
                    )
                )
        os.utime(folder / "run" / layout.commit(unit), (BEGUN + 10 * unit,) * 2)
    return run


def blob(image: int) -> tuple[float, float]:
    """Where image's blob lies, as shares of height and width."""
    return 0.25 + 0.5 * (image * 7 % 10) / 9, 0.25 + 0.5 * (image * 3 % 10) / 9


def _glow(image: int, height: int, width: int, spread: float = 0.12) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    at_y, at_x = blob(image)
    return np.exp(-(((y + 0.5) / height - at_y) ** 2 + ((x + 0.5) / width - at_x) ** 2) / (2 * spread**2))


def _picture(image: int, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, image))
    ground = rng.uniform(30, 110, 3) * np.linspace(0.6, 1.2, size)[:, None, None] * np.ones((1, size, 1))
    colour = rng.uniform(120, 255, 3)
    glow = _glow(image, size, size)[:, :, None]
    return np.clip(ground * (1 - glow) + colour * glow + rng.normal(0, 6, (size, size, 3)), 0, 255).astype(np.uint8)


def _map(image: int, array: ArraySpec, seed: int, *, is_empty: bool) -> np.ndarray:
    height, width = array.shape[-2:]
    if is_empty:
        return np.zeros(array.shape, np.float32)
    rng = np.random.default_rng((seed, image, len(array.group)))
    glow = _glow(image, height, width)
    noise = rng.normal(size=array.shape)
    values = glow * (1 + 0.1 * noise) if height < 16 else glow * (0.3 + noise)
    return (values * (1 + image % 5)).astype(np.float32)


def _summary(rows: np.ndarray, maps: np.ndarray, array: ArraySpec) -> dict[str, object]:
    flat = maps.reshape(len(maps), -1)
    wrong = rows % 7 == 3
    prediction = np.where(wrong, (rows + 1) % len(CLASSES), rows % len(CLASSES))
    return {
        "prediction": prediction,
        "probability": 0.4 + 0.6 * ((rows * 13) % 17) / 17,
        "target": prediction,
        "target_probability": 0.4 + 0.6 * ((rows * 13) % 17) / 17,
        "attribution_sum": flat.sum(1),
        "abs_sum": np.abs(flat).sum(1),
        "positive_sum": np.maximum(flat, 0).sum(1),
        "negative_sum": np.minimum(flat, 0).sum(1),
        "abs_max": np.abs(flat).max(1),
        "gini": np.full(len(rows), 0.5),
        "entropy": np.full(len(rows), 3.0),
        "centre_y": [blob(int(row))[0] for row in rows],
        "centre_x": [blob(int(row))[1] for row in rows],
        "convergence_delta": (rows % 9 - 4) / 100 if array is IG else np.full(len(rows), np.nan),
        "nonfinite_count": np.zeros(len(rows), np.int64),
        "rows_per_pass": 8,
        "precision": "float32",
        "seconds": np.full(len(rows), 0.01),
    }
