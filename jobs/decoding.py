"""What a decode task does: the images of a shard as pixels with their keys and labels. Needs neither torch nor Ray."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.images import decode_rows
from jobs.preprocessing import Preprocessing
from storage.records import Failure


@dataclass(frozen=True, slots=True, eq=False)
class ShardImages:
    """The readable images of a piece, and the failures of the others."""

    rows: np.ndarray  # (n,) int64, image numbers of the index
    keys: tuple[str, ...]
    labels: np.ndarray  # (n,) int64, -1 where there is none
    pixels: np.ndarray  # (n, H, W, 3) uint8
    failures: tuple[Failure, ...]
    seconds: float

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """The small answer of a decode task; the pixels stay where they are."""

    images: int
    seconds: float


def decode(index_rows: pa.Table, preprocessing: Preprocessing) -> tuple[ShardImages, DecodeReport]:
    """The task: here and not beside the workers, so that a process that only decodes never loads torch."""
    images = decode_piece(index_rows, preprocessing)
    return images, DecodeReport(len(images), images.seconds)


def decode_piece(index_rows: pa.Table, preprocessing: Preprocessing) -> ShardImages:
    """Read and decode some rows of the index."""
    started = time.perf_counter()
    decoded = decode_rows(index_rows, preprocessing)
    images = index_rows["image"].to_pylist()
    keys = dict(zip(images, index_rows["key"].to_pylist(), strict=True))
    labels = dict(zip(images, index_rows["label"].to_pylist(), strict=True))
    rows = [int(row) for row in decoded.rows]
    return ShardImages(
        rows=np.asarray(rows, np.int64),
        keys=tuple(keys[row] for row in rows),
        labels=np.asarray([-1 if labels[row] is None else labels[row] for row in rows], np.int64),
        pixels=decoded.pixels,
        failures=decoded.failures,
        seconds=time.perf_counter() - started,
    )
