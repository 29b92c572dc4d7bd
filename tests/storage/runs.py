"""Small runs for the tests: an index, arrays of three forms, and maps that are a function of the image."""

import numpy as np
import pyarrow as pa

from storage.records import ArraySpec, Failure, Result
from storage.run import Run

GRADIENT = ArraySpec(
    group="gradient_shap", expression="gradient_shap(n_samples=3)", dims=("channel", "y", "x"), shape=(3, 6, 5)
)
CAM = ArraySpec(group="grad_cam", expression='grad_cam(at="layer4")', dims=("grad_cam_y", "grad_cam_x"), shape=(2, 2))
ARRAYS = (GRADIENT, CAM)


def make_index(image_count=10):
    return pa.table(
        {
            "image": pa.array(range(image_count), pa.int64()),
            "key": [f"n{number % 3}/{number:05d}.jpg" for number in range(image_count)],
            "uri": [f"/images/{number}.jpg" for number in range(image_count)],
            "label": pa.array([number % 3 if number % 4 else None for number in range(image_count)], pa.int32()),
        }
    )


def make_run(uri, *, image_count=10, shard_length=4, store="full", keep_bits=23, arrays=ARRAYS, **more):
    spec = {"model": "resnet18:random", "seed": 0}
    return Run.create(uri, spec, make_index(image_count), arrays, shard_length, store, keep_bits, **more)


def map_of(spec, image, salt=0):
    """The map that every attempt of the same salt gives for an image."""
    return np.random.default_rng([image, len(spec.group), salt]).normal(size=spec.shape).astype(np.float32)


def results(run, unit, *, without=(), salt=0):
    """What the engine would give for a unit, all images but those in `without`."""
    rows = np.array([row for row in run.unit_rows(unit) if row not in without], dtype=np.int64)
    for spec in run.arrays:
        maps = np.stack([map_of(spec, row, salt) for row in rows]) if len(rows) else np.empty((0, *spec.shape), "f4")
        summary = {
            "prediction": rows % 3,
            "probability": (rows % 10 / 10).astype(np.float32),
            "target": rows % 3,
            "abs_sum": np.abs(maps).sum(axis=tuple(range(1, maps.ndim)), dtype=np.float64).astype(np.float32),
            "convergence_delta": np.full(len(rows), np.nan) if spec.group == CAM.group else np.full(len(rows), 0.5),
            "precision": "fp32",
            "rows_per_pass": 8,
        }
        yield Result(spec.group, rows, maps, summary)


def failure(image, method=None, stage="decode", error="broken JPEG"):
    return Failure(
        image=image, key=f"n{image % 3}/{image:05d}.jpg", method=method, stage=stage, error=error, attempts=1
    )


def write_unit(run, unit, attempt="a", *, failed=(), salt=0):
    with run.writing(unit, attempt) as out:
        for result in results(run, unit, without=failed, salt=salt):
            out.add(result)
        for image in failed:
            out.fail(failure(image))
    return out


def write_all(run, *, failed=()):
    for unit in run.pending():
        write_unit(run, unit, failed=[image for image in failed if image in run.unit_rows(unit)])
    return run
