"""A folder of photographs: class folders or flat, with or without a labels.csv."""

import csv
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jobs.indexing.entry import DatasetError, Entry, Source
from jobs.indexing.imagenet_classes import class_names, label_of_wnid
from jobs.reading import local_uri, local_version

LABELS_FILE = "labels.csv"
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "jpg jpeg png webp gif bmp tif tiff ppm pgm pbm jp2 avif".split()  # noqa: SIM905  # shorter to read
)

logger = logging.getLogger(__name__)


def index_folder(root: Path) -> Source:
    """Labels come from labels.csv where there is one, else from class folders, else there are none."""
    labels_file = root / LABELS_FILE
    if labels_file.is_file():
        labels = read_labels(labels_file.read_text(encoding="utf-8-sig"), str(labels_file))
        return Source(entries=_labelled(walk(root), labels, str(labels_file)), name=root.name, label_source=LABELS_FILE)
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    has_classes = bool(folders) and not any(is_image(entry.name) for entry in os.scandir(root))
    if not has_classes:
        return Source(entries=walk(root), name=root.name)
    names, numbers, source = class_numbers(folders)
    entries = (entry._replace(label=numbers[entry.key.partition("/")[0]]) for entry in walk(root))
    return Source(entries=entries, name=root.name, label_source=source, class_names=names)


def class_numbers(folders: list[str]) -> tuple[tuple[str, ...], dict[str, int], str]:
    """Class names, the label of each folder, and in words where they come from: ImageNet's index for wnids, else sorted order."""
    wnids = label_of_wnid()
    if all(folder in wnids for folder in folders):
        return class_names(), {folder: wnids[folder] for folder in folders}, "class folders (ImageNet wnids)"
    return tuple(folders), {folder: number for number, folder in enumerate(folders)}, "class folders (sorted)"


def walk(root: Path, below: str = "") -> Iterator[Entry]:
    """Every image file below an absolute root (or a folder of it); links that lead out of it are refused, hidden files are not looked at."""
    real_root = os.path.realpath(root)
    pending = [str(root / below)]
    while pending:
        folder = pending.pop()
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _check_link(entry.path, real_root)
                    if entry.is_dir():
                        continue  # a link to a folder within the root: its files are indexed where they lie
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif is_image(entry.name) and (entry.is_file() or entry.is_symlink()):
                    yield _entry(entry, root)


def read_labels(text: str, place: str) -> dict[str, int]:
    """Key -> label of a labels.csv; an empty label means none."""
    rows = csv.DictReader(text.splitlines())
    if not {"key", "label"} <= set(rows.fieldnames or ()):
        raise DatasetError(
            f"{place}: the first line must name the columns key,label (found: {','.join(rows.fieldnames or ())})"
        )
    labels: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        label = (row["label"] or "").strip()
        if not label:
            continue
        if not label.isdecimal() or len(label) > 9:  # 9 digits always fit 32 bits
            raise DatasetError(f"{place} line {number}: label {label!r} is no class index (0, 1, 2, ...)")
        labels[row["key"]] = int(label)
    return labels


def _labelled(entries: Iterable[Entry], labels: Mapping[str, int], place: str) -> Iterator[Entry]:
    found = 0
    for entry in entries:
        label = labels.get(entry.key)
        found += label is not None
        yield entry._replace(label=label)
    if labels and not found:
        raise DatasetError(f"{place}: none of its {len(labels)} keys is a file here (first: {next(iter(labels))!r})")
    if found < len(labels):
        logger.warning("labels without a file", extra={"labels_file": place, "missing": len(labels) - found})


def _entry(entry: "os.DirEntry[str]", root: Path) -> Entry:
    key = os.path.relpath(entry.path, root).replace(os.sep, "/")
    # A file name that is not UTF-8 can't stand in a table: its odd bytes are written out as \xNN.
    key = os.fsencode(key).decode(errors="backslashreplace")
    uri = local_uri(entry.path)
    try:
        status = entry.stat()
    except OSError:  # a link to nothing: reading it will fail, and that is recorded
        return Entry(key, uri)
    return Entry(key, uri, length=status.st_size, version=local_version(status))


def is_image(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES


def _check_link(path: str, real_root: str) -> None:
    target = os.path.realpath(path)
    if os.path.commonpath((target, real_root)) != real_root:
        raise DatasetError(
            f"{path} is a link out of the data set, to {target}; copy what it points to, or index that folder"
        )
