"""Parquet files with image bytes, as Hugging Face's `datasets` writes them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.indexing.entry import DatasetError, Entry, Source, to_table
from jobs.places import ReadError, open_file
from jobs.reading import parquet_uri

# Where a file does not say so itself (by Hugging Face's features): the usual names of a label.
_LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class", "target")
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class _Columns:
    image: str  # `image.bytes` for the field of a struct
    label: str | None
    class_names: tuple[str, ...] | None


def index_parquet(files: list[Entry], name: str) -> Source:
    """One image a row; keys are the file and the row number, so that reading in order reads each row group once."""
    columns = _columns(files[0].uri)
    prefixes = [f"{file.key}/" if len(files) > 1 else "" for file in files]
    entries = (
        entry for file, prefix in zip(files, prefixes, strict=True) for entry in _entries(file.uri, prefix, columns)
    )
    return Source(
        table=to_table(entries),
        name=name,
        label_source=f"column {columns.label}" if columns.label else None,
        class_names=columns.class_names,
    )


def _entries(uri: str, prefix: str, columns: _Columns) -> Iterator[Entry]:
    if _columns(uri) != columns:
        raise DatasetError(
            f"{uri} has other image or label columns than the first file: {_columns(uri)}, not {columns}"
        )
    file, version = open_file(uri)
    with file:
        parquet = pq.ParquetFile(file)
        place = parquet_uri(uri, columns.image)
        for row, label in enumerate(_labels(parquet, columns.label)):
            yield Entry(f"{prefix}{row:08d}", place, offset=row, label=label, version=version)


def _labels(parquet: pq.ParquetFile, column: str | None) -> Iterator[int | None]:
    if column is None:
        yield from (None for _ in range(parquet.metadata.num_rows))
        return
    for batch in parquet.iter_batches(_BATCH_ROWS, columns=[column]):
        for label in batch.column(0).to_pylist():
            yield label if label is not None and label >= 0 else None  # -1 is Hugging Face's word for none


def _columns(uri: str) -> _Columns:
    try:
        file, _ = open_file(uri)
        with file:
            schema = pq.ParquetFile(file).schema_arrow
    except (ReadError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{uri} is no whole Parquet file ({error})") from error
    features = _features(schema)
    label = _label_column(schema, features)
    names = features.get(label or "", {}).get("names")
    return _Columns(_image_column(schema, features, uri), label, tuple(names) if names else None)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What Hugging Face says of each column, where it wrote the file."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict) and name in schema.names}


def _image_column(schema: pa.Schema, features: Mapping[str, Any], uri: str) -> str:
    found = {field.name: place for field in schema if (place := _bytes_place(field)) is not None}
    said = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    if len(chosen := said or list(found)) != 1:
        listed = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DatasetError(f"{uri}: {len(chosen)} columns may hold images, one must ({listed})")
    return found[chosen[0]]


def _bytes_place(field: pa.Field) -> str | None:
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes"
    return None


def _label_column(schema: pa.Schema, features: Mapping[str, Any]) -> str | None:
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    said = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in _LABEL_NAMES if name in integers]
    return (said or usual or [None])[0]
