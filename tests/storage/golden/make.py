"""Makes the golden run of the present format: python tests/storage/golden/make.py VERSION (from the repository root).

Run once for each release whose format changed, never for one that is there: what was released must open for ever.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[3]))

from storage.records import ArraySpec, Failure, Result
from storage.run import Run

ARRAYS = [
    ArraySpec(group="saliency", expression="saliency", dims=("channel", "y", "x"), shape=(3, 4, 5)),
    ArraySpec(
        group="grad_cam",
        expression='grad_cam(at="layer4")',
        dims=("grad_cam_y", "grad_cam_x"),
        shape=(2, 2),
        attributes={"layer": "layer4"},
    ),
]


def write(run, unit):
    rows = np.array([row for row in run.unit_rows(unit) if row != 3])
    with run.writing(unit, "golden") as out:
        for spec in run.arrays:
            maps = np.stack([np.random.default_rng([row, len(spec.shape)]).normal(size=spec.shape) for row in rows])
            summary = {
                "prediction": rows % 3,
                "probability": rows / 8,
                "abs_sum": np.abs(maps).sum(axis=tuple(range(1, maps.ndim))),
                "layer": None if spec.group == "saliency" else "layer4",
                "steps": None,
                "nonfinite_count": 0,
            }
            out.add(Result(spec.group, rows, maps.astype(np.float32), summary))
        if 3 in run.unit_rows(unit):
            out.fail(Failure(image=3, key="b/3.jpg", method=None, stage="decode", error="truncated", attempts=1))
        out.mark(torch="2.13.0", device="cpu")


def main(version):
    place = Path(__file__).parent / version
    index = pa.table(
        {
            "image": pa.array(range(7), pa.int64()),
            "key": [f"{'ab'[number % 2]}/{number}.jpg" for number in range(7)],
            "uri": [f"/images/{number}.jpg" for number in range(7)],
            "label": pa.array([0, 1, None, 1, 0, 1, 0], pa.int32()),
        }
    )
    run = Run.create(place / "run", {"model": "golden", "seed": 0}, index, ARRAYS, 2, "full", 10)
    write(run, 0)
    write(run, 1)
    run.compact()
    write(run, 3)  # loose, and unit 2 pending
    for folder in (place / "run" / "_staging",):
        folder.rmdir()
    expected = {
        "summary": run.summary().to_pylist(),
        "failures": run.failures().to_pylist(),
        "maps": {spec.group: np.nan_to_num(run.attributions(spec.group)[:], nan=-99).tolist() for spec in run.arrays},
        "attempt": run.commit_of(3).attempt,
    }
    (place / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
