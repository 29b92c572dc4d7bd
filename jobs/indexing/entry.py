"""One image of a data set before it has a number, and the table that many of them become."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),  # null: the whole file
        pa.field("length", pa.int64()),  # bytes, where known
        pa.field("label", pa.int32()),
        pa.field("version", pa.string()),  # of the file that holds the bytes, see jobs.places
    ]
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BATCH = 65_536  # entries that exist as Python objects at a time


class DatasetError(ValueError):
    """The data set can't be indexed as named; the message says what to do."""


class Entry(NamedTuple):
    """An image by its key (unique and stable: its identity in seeds and results) and where its bytes lie."""

    key: str
    uri: str
    offset: int | None = None
    length: int | None = None
    label: int | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A whole data set as one kind of indexer found it, and where its labels and names come from."""

    table: pa.Table  # of SCHEMA, sorted and numbered
    name: str
    label_source: str | None = None
    class_names: tuple[str, ...] | None = None
    licence: str | None = None


def printable(name: str) -> str:
    """A name from outside without control characters (written out in hexadecimal), which could rewrite a terminal or split a table's row."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", name)


def to_table(entries: Iterable[Entry]) -> pa.Table:
    """The index: sorted by key (by code point, whatever the file system or locale), numbered, no key twice."""
    table = _in_order(entries)
    keys = table["key"]
    repeated = pc.filter(keys[1:], pc.equal(keys[1:], keys[:-1])) if len(keys) else keys
    if len(repeated):
        raise DatasetError(
            f"{len(repeated)} keys are there more than once, first {repeated[0].as_py()!r}; keys must be unique"
        )
    return numbered(table)


def numbered(table: pa.Table) -> pa.Table:
    """The same rows with `image` counting from 0."""
    rest = table.drop_columns(["image"]) if "image" in table.column_names else table
    return rest.add_column(0, SCHEMA.field("image"), pa.array(np.arange(len(rest)))).cast(SCHEMA)


def index_digest(table: pa.Table) -> str:
    """sha256 over key, label, offset, length and version of every row; where the files lie does not matter."""
    digest = hashlib.sha256()
    columns = ("key", "label", "offset", "length", "version")
    for batch in table.select(columns).to_batches(max_chunksize=_BATCH):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update("\0".join("" if value is None else str(value) for value in row).encode() + b"\n")
    return digest.hexdigest()


def _in_order(entries: Iterable[Entry]) -> pa.Table:
    """Sorted column by column, so that of 1.3 million images only one column is there twice."""
    schema = pa.schema([SCHEMA.field(name) for name in Entry._fields])
    table = pa.Table.from_batches(_batches(iter(entries), schema), schema=schema)
    order, columns = pc.sort_indices(table, [("key", "ascending")]), {}
    for name in schema.names:
        pa.default_memory_pool().release_unused()  # it keeps what is freed, which here is a column after another
        columns[name] = table[name].combine_chunks().take(order)
        table = table.drop_columns([name])
    pa.default_memory_pool().release_unused()
    return pa.table(columns)


def _batches(entries: Iterator[Entry], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while chunk := [entry._replace(key=printable(entry.key)) for entry in islice(entries, _BATCH)]:
        columns = zip(*chunk, strict=True)
        yield pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )
