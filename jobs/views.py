"""What every picture of a run starts from: its photographs, its maps as planes, its names. Loads neither torch nor Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from attribution.visualization import plane
from jobs.images import decode_rows
from jobs.preprocessing import Preprocessing
from storage.records import ArraySpec
from storage.run import Run

MISSING = 214  # the grey of a photograph that can no longer be read
Planes = NDArray[np.floating]


@dataclass(frozen=True)
class View:
    """A run as something to look at."""

    run: Run

    @cached_property
    def pictured(self) -> tuple[ArraySpec, ...]:
        """The arrays that lie over an image; a fully connected layer's do not."""
        if self.run.record.store == "none":
            return ()
        return tuple(spec for spec in self.run.arrays if spec.dims[-2:] == ("y", "x") or _is_layer_grid(spec.dims))

    @cached_property
    def class_names(self) -> dict[int, str]:
        names = self.run.record.origin.get("class_names")
        if isinstance(names, dict):
            return {int(number): str(name) for number, name in names.items()}
        return dict(enumerate(map(str, names))) if isinstance(names, list) else {}

    def class_name(self, number: int | None) -> str:
        if number is None or number < 0:
            return "no label"
        return self.class_names.get(number, f"class {number}")

    @cached_property
    def preprocessing(self) -> Preprocessing:
        recorded = self.run.spec.get("identity", {}).get("preprocessing")
        return Preprocessing.from_json(recorded) if recorded else Preprocessing()

    def photographs(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """What the model saw of each image, (n, H, W, 3); grey where it can no longer be read."""
        decoded = decode_rows(self.run.index.take(pa.array(rows, pa.int64())), self.preprocessing)
        pictures = np.full((len(rows), *self.preprocessing.crop, 3), MISSING, np.uint8)
        place = {row: position for position, row in enumerate(rows)}
        for row, pixels in zip(decoded.rows.tolist(), decoded.pixels, strict=True):
            pictures[place[row]] = pixels
        return pictures

    def planes(self, group: str, rows: Sequence[int]) -> Planes:
        """Maps summed over channels, (n, H, W) at their native resolution."""
        maps = self.run.attributions(group)[np.asarray(rows, np.int64)]
        return np.stack([plane(each) for each in maps]) if len(maps) else np.empty((0, 1, 1))

    def numbers(self, rows: Sequence[int]) -> dict[tuple[int, str], dict[str, Any]]:
        """Summary rows by image and method expression."""
        table = self.run.summary()
        mine = table.filter(pc.is_in(table["image"], pa.array(rows, pa.int64())))
        return {(each["image"], each["method"]): each for each in mine.to_pylist()}


def _is_layer_grid(dims: tuple[str, ...]) -> bool:
    return len(dims) >= 2 and dims[-2].endswith("_y") and dims[-1].endswith("_x")
