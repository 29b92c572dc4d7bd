"""A torch Dataset over a run: what the model saw, what a method answered, and the row of the summary."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jobs.views import View
from storage.run import Run


class AttributionDataset(Dataset[tuple[Tensor, Tensor, dict[str, Any]]]):
    """Map-style: item i is (image (3, H, W) uint8, map float32, summary row) of the i-th finished image of one method.

    What a row lacks is NaN, -1 or "", so that rows can be collated into batches. Opens lazily and pickles as its URI, so it can be handed to DataLoader workers.
    """

    def __init__(self, run: Run | str, method: str) -> None:
        self.view = View(Run.open(run) if isinstance(run, str) else run)
        self.maps = self.view.run.attributions(method)
        table = self.view.run.summary()
        self.rows = table.filter(pc.equal(table["method"], self.maps.expression)).sort_by("image")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        if not -len(self) <= position < len(self):
            raise IndexError(f"item {position} of {len(self)}")
        found = self.rows.slice(position % len(self), 1)
        row = {field.name: _or_blank(found[field.name][0].as_py(), field.type) for field in found.schema}
        pixels = self.view.photographs([row["image"]])[0]
        attribution = np.array(self.maps[row["image"]], dtype=np.float32)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(attribution), row

    def __reduce__(self) -> tuple[Any, ...]:
        return AttributionDataset, (self.view.run, self.maps.expression)


def _or_blank(value: Any, kind: pa.DataType) -> Any:
    if value is not None:
        return value
    return float("nan") if pa.types.is_floating(kind) else -1 if pa.types.is_integer(kind) else ""
