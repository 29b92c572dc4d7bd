"""Data sets by name, path or URI, each as one index: a stable table of keys, places and labels."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.indexing import imagenet, sample
from jobs.indexing.entry import DatasetError, Source, index_digest, numbered, to_table
from jobs.indexing.folder import index_folder
from jobs.indexing.selection import choose_keys, choose_where

__all__ = ["Dataset", "DatasetError", "index_dataset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The images of a run, by number: the index, and what the record says about where it came from."""

    index: pa.Table  # image, key, uri, offset, length, label, version
    digest: str
    name: str
    label_source: str | None
    class_names: tuple[str, ...] | None
    licence: str | None


def index_dataset(
    name_or_uri: str,
    *,
    data_root: str | None = None,
    limit: int | None = None,
    filter: str | None = None,  # noqa: A002  # the word of the command line
    keys: Iterable[str] | None = None,
) -> Dataset:
    """The index of a data set, sorted by key: first the named `keys`, then those where the SQL `filter` holds, then the first `limit`."""
    source = _source(name_or_uri, data_root)
    table = to_table(source.entries)
    if not len(table):
        raise DatasetError(f"data set {name_or_uri!r} holds no image")
    if keys is not None:
        table = choose_keys(table, keys)
    if filter is not None:
        table = choose_where(table, filter)
    table = numbered(table.slice(0, limit))
    return Dataset(
        index=table,
        digest=index_digest(table),
        name=source.name,
        label_source=source.label_source,
        class_names=source.class_names,
        licence=source.licence,
    )


def _source(name_or_uri: str, data_root: str | None) -> Source:
    if name_or_uri == "sample":
        return sample.index_sample()
    if name_or_uri == imagenet.NAME:
        return imagenet.index_imagenet_val(data_root)
    path = Path(data_root or "", name_or_uri).expanduser().resolve()
    if path.is_dir():
        return index_folder(path)
    known = ("sample", imagenet.NAME)
    nearest = difflib.get_close_matches(name_or_uri, known, n=1)
    hint = f"nearest: {nearest[0]}; " if nearest else ""
    raise DatasetError(f"data set {name_or_uri!r} is no folder here and no known name; {hint}see: cli.py datasets")
