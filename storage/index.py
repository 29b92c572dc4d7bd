"""The image index of a run: written once, read by row groups, so that a worker never holds 1.3 million rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage import layout
from storage.errors import MissingObjectError, StoreError
from storage.objects import Objects
from storage.summaries import from_parquet

ROW_GROUP = 8192  # rows; a unit's rows cost one range request or two
KEPT_GROUPS = 8  # about 10 MB


def encode_index(index: pa.Table) -> bytes:
    """Parquet of an index whose `image` column counts its rows and whose keys are unique."""
    missing = {"image", "key"} - set(index.column_names)
    if missing:
        raise StoreError(f"index has no column {', '.join(sorted(missing))}; columns: {', '.join(index.column_names)}")
    if not np.array_equal(index["image"].to_numpy(), np.arange(index.num_rows)):
        raise StoreError("index column image must count its rows: 0, 1, 2, ...")
    if not _is_unique(index["key"]):
        repeated = _repeated_key(index)
        raise StoreError(f"index key {repeated!r} occurs more than once; keys name images, so they must be unique")
    sink = io.BytesIO()
    pq.write_table(index.combine_chunks(), sink, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
    return sink.getvalue()


class Index:
    """index.parquet, opened when first asked for."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._groups: dict[int, pa.Table] = {}

    @cached_property
    def table(self) -> pa.Table:
        return from_parquet(self._objects.get(layout.INDEX))

    def rows(self, wanted: Sequence[int]) -> pa.Table:
        """Some rows in the order given, as a table of their own; the rest of the row groups they lie in is read and no more."""
        if not len(wanted):
            return self._file.schema_arrow.empty_table()
        numbers = np.asarray(wanted, np.int64)
        first, last = int(numbers.min()) // ROW_GROUP, int(numbers.max()) // ROW_GROUP
        groups = pa.concat_tables([self._group(number) for number in range(first, last + 1)])
        return groups.take(pa.array(numbers - first * ROW_GROUP)).combine_chunks()

    def _group(self, number: int) -> pa.Table:
        """A row group; the last few are kept, because units that follow one another share them."""
        group = self._groups.get(number)
        if group is None:
            group = self._file.read_row_group(number)
            if len(self._groups) >= KEPT_GROUPS:
                self._groups.clear()
            self._groups[number] = group
        return group

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(_Ranges(self._objects, layout.INDEX))


class _Ranges(io.RawIOBase):
    """An object as a seekable file: each read is one range request."""

    def __init__(self, objects: Objects, key: str) -> None:
        self._objects, self._key, self._position = objects, key, 0
        size = objects.size(key)
        if size is None:
            raise MissingObjectError(f"{objects.uri}/{key} is not there")
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        content = self._objects.get_range(self._key, self._position, length)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _is_unique(keys: pa.ChunkedArray) -> bool:
    """Sorted keys, as indexers give them, need no set of 1.3 million texts to tell."""
    ascending = pc.all(pc.less(keys[:-1], keys[1:]), skip_nulls=False).as_py() if len(keys) > 1 else True
    return bool(ascending) or pc.count_distinct(keys, mode="all").as_py() == len(keys)


def _repeated_key(index: pa.Table) -> str:
    counts = index.group_by("key").aggregate([("key", "count")])
    return str(counts.filter(pc.greater(counts["key_count"], 1))["key"][0].as_py())
