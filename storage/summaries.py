"""The two tables of a run, as Parquet: one row per image and method that has a result, one per failure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.layout import Table
from storage.records import Failure

_FROM_INDEX = ("image", "key", "label")

SUMMARY = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("probability", pa.float32()),
        pa.field("method", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("layer", pa.string()),
        pa.field("neuron", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("target_probability", pa.float32()),
        *[
            pa.field(name, pa.float32())
            for name in (
                *("attribution_sum", "abs_sum", "positive_sum", "negative_sum", "abs_max"),
                *("gini", "entropy", "centre_y", "centre_x", "convergence_delta"),
            )
        ],
        pa.field("steps", pa.int32()),
        pa.field("infidelity", pa.float32()),
        pa.field("sensitivity_max", pa.float32()),
        pa.field("nonfinite_count", pa.int64()),
        pa.field("rows_per_pass", pa.int32()),
        pa.field("precision", pa.string()),
        pa.field("unit", pa.int32(), nullable=False),
        pa.field("seconds", pa.float32()),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("method", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)

SCHEMAS: dict[Table, pa.Schema] = {"summary": SUMMARY, "failures": FAILURES}

GIVEN = tuple(name for name in SUMMARY.names if name not in {*_FROM_INDEX, "unit"})

# A class index is never negative, so -1 is how numpy says "none"; a NaN in these says the method has no such number.
_NULL_IF_NEGATIVE = {"label", "prediction", "target", "steps"}
_NULL_IF_NAN = {"probability", "target_probability", "convergence_delta", "infidelity", "sensitivity_max"}


def summary_rows(given: Mapping[str, Any], rows: np.ndarray, index: pa.Table, unit: int, method: str) -> pa.Table:
    """Rows of the summary table from what a Result gives and what the index rows of its images say."""
    unknown = sorted(set(given) - set(GIVEN))
    if unknown:
        raise StoreError(f"summary has no column {', '.join(unknown)}; columns: {', '.join(GIVEN)}")
    values: dict[str, Any] = {
        "method": method,
        "name": method.split("(", 1)[0],
        **given,
        **{name: index[name] for name in _FROM_INDEX if name in index.column_names},
        "unit": unit,
    }
    return pa.table({each.name: _column(values.get(each.name), each, len(rows)) for each in SUMMARY}, schema=SUMMARY)


def failure_rows(failures: Sequence[Failure]) -> pa.Table:
    return pa.Table.from_pylist([{name: getattr(each, name) for name in FAILURES.names} for each in failures], FAILURES)


def to_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with writer(sink, table.schema) as parquet:
        parquet.write_table(table)
    return sink.getvalue()


def writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Zstandard over byte-stream-split floats: a third smaller and faster than the default, measured; pages carry checksums."""
    floats = [each.name for each in schema if pa.types.is_floating(each.type)]
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_byte_stream_split=floats or False,
        use_dictionary=[each.name for each in schema if each.name not in floats],
        write_page_checksum=True,
    )


def from_parquet(content: bytes) -> pa.Table:
    # Not pq.read_table: that loads pyarrow.dataset, and pandas with it, which takes longer than most tables do.
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        return file.read()


def concatenated(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    found = list(tables)
    return pa.concat_tables(found) if found else pa.Table.from_batches([], schema)  # empty_table() loads pandas


def _column(value: Any, form: pa.Field, length: int) -> pa.Array:
    if value is None:
        return pa.nulls(length, form.type)
    if isinstance(value, str) or np.ndim(value) == 0:
        return pa.repeat(pa.scalar(value, form.type), length)
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return value.cast(form.type)
    array = np.ma.asarray(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    if array.shape != (length,):
        raise StoreError(f"summary column {form.name} has shape {array.shape} for {length} images")
    return pa.array(np.ma.getdata(array), mask=_nulls(array, form.name), from_pandas=False).cast(form.type)


def _nulls(array: Any, name: str) -> np.ndarray:
    nulls = np.ma.getmaskarray(array)
    if array.dtype.kind == "f" and name in _NULL_IF_NAN:
        nulls = nulls | np.isnan(np.ma.getdata(array))
    if array.dtype.kind in "iuf" and name in _NULL_IF_NEGATIVE:
        nulls = nulls | (np.ma.getdata(array) < 0)
    return nulls
