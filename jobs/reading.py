"""One reader for every kind of data set: an image's encoded bytes by (uri, offset, length), whatever holds them.

A uri is a path, file://, s3://, gs:// or az://, with up to one word before it that says how the file holds images:
`parquet:COLUMN:URI` with the row as offset, and `planes:CxHxW:URI` (or `CxWxH` transposed as `planes:CxHxWt:`) for raw pixels.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.places import ReadError, check_version, is_remote, open_file, read_bytes

__all__ = ["ReadError", "is_request", "parquet_uri", "planes_uri", "read"]


def read(uri: str, offset: int | None = None, length: int | None = None, version: str | None = None) -> bytes:
    """An image as the bytes of a file that pillow opens.

    Raises ReadError where the image can't be had, OSError where asking again may help, AwayError where the whole store is away.
    """
    kind, detail, file = _parts(uri)
    if kind == "parquet":
        return _parquet_row(file, detail, offset or 0, version)
    if kind == "planes":
        return _netpbm(read_bytes(file, offset, length, version), detail)
    return read_bytes(file, offset, length, version)


def is_request(uri: str) -> bool:
    """Whether each image of this uri is a request of its own to a store. Rows of a Parquet file come by whole groups."""
    kind, _, file = _parts(uri)
    return kind != "parquet" and is_remote(file)


def parquet_uri(file: str, column: str) -> str:
    return f"parquet:{column}:{file}"


def planes_uri(file: str, channels: int, height: int, width: int, *, transposed: bool = False) -> str:
    return f"planes:{channels}x{height}x{width}{'t' if transposed else ''}:{file}"


def _parts(uri: str) -> tuple[str, str, str]:
    """What holds the image ("" for a plain file), its detail, and the file."""
    kind, _, rest = uri.partition(":")
    if kind not in ("parquet", "planes"):
        return "", "", uri
    detail, _, file = rest.partition(":")
    return kind, detail, file


def _netpbm(planes: bytes, shape: str) -> bytes:
    """Raw planes of 8 bits as a portable pixmap, the simplest file that pillow opens."""
    channels, height, width = map(int, shape.removesuffix("t").split("x"))
    order = (2, 1, 0) if shape.endswith("t") else (1, 2, 0)
    stored = (channels, width, height) if shape.endswith("t") else (channels, height, width)
    pixels = np.frombuffer(planes, np.uint8).reshape(stored).transpose(order)
    return b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height) + pixels.tobytes()


def _parquet_row(file: str, column: str, row: int, version: str | None) -> bytes:
    starts = _row_group_starts(file, version)
    group = bisect_right(starts, row) - 1
    value = _row_group(file, version, column, group)[row - starts[group]].as_py()
    if value is None:
        raise ReadError(f"row {row} has no image bytes in column {column}")
    return bytes(value)


@lru_cache(maxsize=64)
def _row_group_starts(file: str, version: str | None) -> list[int]:
    with _parquet(file, version) as parquet:
        sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.metadata.num_row_groups)]
    return [0, *accumulate(sizes[:-1])]


# Neighbouring rows are asked for together; two groups serve a shard that lies across a border.
@lru_cache(maxsize=2)
def _row_group(file: str, version: str | None, column: str, group: int) -> pa.ChunkedArray:
    with _parquet(file, version) as parquet:
        values = parquet.read_row_group(group, columns=[column]).column(0)
    for name in column.split(".")[1:]:
        values = pc.struct_field(values, name)
    return values


@contextmanager
def _parquet(file: str, version: str | None) -> Iterator[pq.ParquetFile]:
    opened, actual = open_file(file)
    with opened:
        check_version(version, actual)
        try:
            yield pq.ParquetFile(opened)
        except pa.ArrowInvalid as error:
            raise ReadError(f"no whole Parquet file: {error}") from error
