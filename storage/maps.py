"""Reading maps back: any rows of one array, as numpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from storage import layout
from storage.objects import Objects
from storage.records import ArraySpec


class Attributions:
    """The maps of one question, (images, *shape) float32; NaN where an image failed or is not done yet."""

    def __init__(self, objects: Objects, spec: ArraySpec, image_count: int) -> None:
        self.group, self.expression, self.dims = spec.group, spec.expression, ("image", *spec.dims)
        self.shape = (image_count, *spec.shape)
        self._objects = objects

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            return self._read(rows)
        wanted = image_numbers(rows, len(self))
        if wanted.ndim == 0:
            return np.asarray(self._read(slice(int(wanted), int(wanted) + 1))[0])
        return np.asarray(self._array.oindex[wanted]) if len(wanted) else np.empty((0, *self.shape[1:]), np.float32)

    def _read(self, rows: slice) -> np.ndarray:
        return np.asarray(self._array[rows])

    @cached_property
    def _array(self) -> Any:
        import zarr  # late: see storage/tensors.py

        return zarr.open_array(self._objects.zarr_store(), path=layout.array(self.group), mode="r")


def image_numbers(rows: int | Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Rows as a numpy array would take them, counted from the end or chosen by a mask, as numbers from 0 to `count` - 1."""
    asked = np.asarray(rows)
    if asked.dtype == bool and asked.shape != (count,):
        raise IndexError(f"a mask of {asked.size} over {count} images")
    wanted = (
        np.flatnonzero(asked) if asked.dtype == bool or not asked.size else asked.astype(np.int64, casting="same_kind")
    )
    beyond = wanted[(wanted < -count) | (wanted >= count)]
    if beyond.size:
        raise IndexError(f"image {beyond.flat[0]} of {count}")
    return np.asarray(np.where(wanted < 0, wanted + count, wanted))
