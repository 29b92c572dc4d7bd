"""Data sets by name, path or URI, each as one index: a stable table of keys, places and labels."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from obstore.exceptions import BaseError

from jobs.indexing import arrays, cifar, imagenet, sample, torchvision_sets
from jobs.indexing.entry import DatasetError, Entry, Source, index_digest, numbered, to_table
from jobs.indexing.folder import label_by_class_folder, label_folder
from jobs.indexing.listing import Place, folder_at, images, matching, split_pattern, suffix
from jobs.indexing.parquet import index_parquet
from jobs.indexing.selection import choose_keys, choose_where
from jobs.indexing.tar import tar_entries
from jobs.places import ReadError, is_remote, reason

__all__ = ["Dataset", "DatasetError", "KnownDataset", "index_dataset", "known_datasets"]

_ARCHIVES = re.compile(r"\.(zip|7z|rar|t?gz|tar\.\w+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The images of a run, by number: the index, and what the record says about where it came from."""

    index: pa.Table  # image, key, uri, offset, length, label, version
    digest: str
    name: str
    label_source: str | None
    class_names: tuple[str, ...] | None
    licence: str | None


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """What `--dataset` understands, for the list of them."""

    name: str
    description: str


def known_datasets() -> tuple[KnownDataset, ...]:
    named = ", ".join((*cifar.NAMES, *arrays.NAMES, *torchvision_sets.NAMES))
    return (
        KnownDataset("sample", "photographs that come with scikit-image (the sample extra); no download"),
        KnownDataset(
            imagenet.NAME, f"ImageNet's 50,000 validation images; root from --data-root or {imagenet.ROOT_VARIABLE}"
        ),
        KnownDataset(
            "DIR",
            "a folder: class folders (wnids get ImageNet's index) or flat; labels.csv (key,label) where there is one",
        ),
        KnownDataset("GLOB", "'photos/**/*.jpg': *, ?, **, [ab], {a,b}, {000..146}"),
        KnownDataset("*.tar", "tar archives of images; WebDataset's .cls and .json members are labels"),
        KnownDataset("*.parquet", "image bytes in a column, as Hugging Face's datasets writes them"),
        KnownDataset("s3:// gs:// az://", "any of these in a bucket; credentials come from the environment"),
        KnownDataset("NAME[:SPLIT]", f"laid out as torchvision does below --data-root: {named}"),
    )


def is_name(text: str) -> bool:
    """Whether `--dataset` means a data set that is known by name, and so no place."""
    names = ("sample", imagenet.NAME, *cifar.NAMES, *arrays.NAMES, *torchvision_sets.NAMES)
    return text.partition(":")[0] in names


def index_dataset(
    name_or_uri: str,
    *,
    data_root: str | None = None,
    limit: int | None = None,
    filter: str | None = None,  # noqa: A002  # the word of the command line
    keys: Iterable[str] | None = None,
) -> Dataset:
    """The index of a data set, sorted by key: first the named `keys`, then those where the SQL `filter` holds, then the first `limit`."""
    try:
        source = _source(name_or_uri, data_root)
    except (OSError, BaseError, ReadError) as error:
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        raise DatasetError(f"data set {name_or_uri!r} can't be listed: {reason(error)}{place}") from error
    table = source.table
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
    name, _, split = name_or_uri.partition(":")
    for kind, index in (
        (cifar, cifar.index_cifar),
        (arrays, arrays.index_arrays),
        (torchvision_sets, torchvision_sets.index_torchvision),
    ):
        if name in kind.NAMES:
            return index(name, split or "test", _root(name, data_root))
    return _located(_uri(name_or_uri, data_root), name_or_uri)


def _uri(name_or_uri: str, data_root: str | None) -> str:
    return name_or_uri if is_remote(name_or_uri) else str(Path(data_root or "", name_or_uri).expanduser())


def _located(uri: str, given: str) -> Source:
    """Files by path, glob or URI: images, else tar archives, else Parquet."""
    found = _one_file(uri) or _below(uri)
    if found is None:
        raise DatasetError(_unknown(given))
    place, name, files = found
    table = to_table(images(files()))
    if len(table):
        return label_folder(table, place, name)
    containers = sorted(entry for entry in files() if suffix(entry.key) in {"tar", "parquet"})
    kinds = {suffix(entry.key) for entry in containers}
    if len(kinds) > 1:
        raise DatasetError(f"data set {given!r} holds tar and Parquet files; name one kind, e.g. '{uri}/*.tar'")
    if kinds == {"tar"}:
        return _tars(containers, name)
    if kinds == {"parquet"}:
        return index_parquet(containers, name)
    packed = next((entry.key for entry in files() if _ARCHIVES.search(entry.key.lower())), None)
    hint = f"; {packed!r} can't be read by offset: unpack it, or store it as a plain .tar" if packed else ""
    raise DatasetError(f"data set {given!r} holds no image{hint}")


_Found = tuple[Place, str, Callable[[], Iterable[Entry]]]  # the folder, what to call the data set, its files


def _one_file(uri: str) -> _Found | None:
    folder, _, name = uri.rstrip("/").rpartition("/")
    if not name or not (Path(uri).is_file() or (is_remote(uri) and "." in name)):
        return None
    place = folder_at(folder or ("/" if uri.startswith("/") else "."))
    entry = place.file(name)
    return None if entry is None else (place, name, lambda: [entry])


def _below(uri: str) -> _Found | None:
    literal = not is_remote(uri) and Path(uri).exists()  # names may hold wild characters
    folder, pattern = (uri, "") if literal else split_pattern(uri)
    if not is_remote(folder) and not Path(folder).is_dir():
        return None
    place = folder_at(folder)
    if pattern:
        return place, pattern, lambda: matching(place.files(), pattern)
    return place, place.uri.rstrip("/").rpartition("/")[2], place.files


def _tars(archives: list[Entry], name: str) -> Source:
    table = to_table(tar_entries(archives))
    if table["label"].null_count < len(table):
        return Source(table=table, name=name, label_source="the archives' .cls or .json")
    return label_by_class_folder(table, [], name) if len(archives) == 1 else Source(table=table, name=name)


def _root(name: str, data_root: str | None) -> Path:
    if not data_root:
        raise DatasetError(f"{name} needs the folder that it was unpacked in: pass --data-root DIR")
    return Path(data_root).expanduser().resolve()


def _unknown(given: str) -> str:
    known = ["sample", imagenet.NAME, *cifar.NAMES, *arrays.NAMES, *torchvision_sets.NAMES]
    nearest = difflib.get_close_matches(given, known, n=1)
    hint = f"nearest: {nearest[0]}; " if nearest else ""
    return f"data set {given!r} is no file or folder here and no known name; {hint}see: cli.py datasets"
