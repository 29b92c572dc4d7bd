"""ImageNet's validation set in the forms people have it: folders by wnid, a flat folder, or the tar as it was published."""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from jobs.indexing.entry import DatasetError, Entry, Source
from jobs.indexing.folder import is_image, walk
from jobs.indexing.imagenet_classes import class_names, label_of_ilsvrc_id, label_of_wnid
from jobs.indexing.tar import tar_entries

NAME = "imagenet-val"
ROOT_VARIABLE = "IMAGENET_ROOT"
_TAR = "ILSVRC2012_img_val.tar"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_LAYOUTS = f"val/<wnid>/*.JPEG, or val/*.JPEG or {_TAR} with a label file beside it ({_GROUND_TRUTH}, LOC_val_solution.csv, val.txt or labels.csv)"
# Below a root: where the images, the tar and the label files lie in the published kits, Kaggle's copy and torchvision's.
_IMAGE_FOLDERS = ("val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "")
_LABEL_FOLDERS = ("", "val", "devkit/data", "data", "ILSVRC2012_devkit_t12/data", "ILSVRC/devkit/data")
_NUMBER = re.compile(r"val_0*(\d+)\.")

LabelOf = Callable[[str], int | None]  # file name -> class index


def index_imagenet_val(data_root: str | None) -> Source:
    """Keys are the file names (ILSVRC2012_val_00000001.JPEG) in every layout, so that runs on different copies compare."""
    given = data_root or os.environ.get(ROOT_VARIABLE)
    if not given:
        raise DatasetError(
            f"{NAME} needs its folder: pass --data-root DIR or set {ROOT_VARIABLE}; understood layouts: {_LAYOUTS}"
        )
    root = Path(given).expanduser().resolve()
    if root.is_file() and root.suffix == ".tar":
        return _labelled(tar_entries(str(root)), root.parent)
    if not root.is_dir():
        raise DatasetError(f"{NAME}: {root} is no folder; understood layouts: {_LAYOUTS}")
    for folder in (root / name for name in _IMAGE_FOLDERS):
        if folder.is_dir() and (wnids := _wnid_folders(folder)):
            return _by_wnid(folder, wnids)
        if folder.is_dir() and any(is_image(entry.name) for entry in os.scandir(folder)):
            return _labelled(walk(folder), root)
    if (root / _TAR).is_file():
        return _labelled(tar_entries(str(root / _TAR)), root)
    raise DatasetError(f"{NAME}: nothing in {root} looks like it; understood layouts: {_LAYOUTS}")


def _by_wnid(folder: Path, wnids: Sequence[str]) -> Source:
    labels = label_of_wnid()
    entries = (
        entry._replace(key=entry.key.rpartition("/")[2], label=labels[entry.key.partition("/")[0]])
        for wnid in wnids
        for entry in walk(folder, wnid)
    )
    return _source(entries, "class folders (ImageNet wnids)")


def _labelled(entries: Iterable[Entry], root: Path) -> Source:
    for file in (root / folder / name for name in _READERS for folder in _LABEL_FOLDERS):
        if file.is_file():
            label_of = _READERS[file.name](file)
            return _source(_with_labels(entries, label_of), file.name)
    return _source((entry._replace(key=entry.key.rpartition("/")[2]) for entry in entries), None)


def _with_labels(entries: Iterable[Entry], label_of: LabelOf) -> Iterator[Entry]:
    for entry in entries:
        name = entry.key.rpartition("/")[2]
        yield entry._replace(key=name, label=label_of(name))


def _source(entries: Iterable[Entry], label_source: str | None) -> Source:
    return Source(
        entries=entries,
        name=NAME,
        label_source=label_source,
        class_names=class_names(),
        licence="ImageNet terms of access: non-commercial research and education",
    )


def _wnid_folders(folder: Path) -> list[str]:
    known = label_of_wnid()
    return sorted(entry.name for entry in os.scandir(folder) if entry.name in known and entry.is_dir())


def _ground_truth(file: Path) -> LabelOf:
    """Line n is the class of image n, as an ILSVRC number (1 to 1000, in the kit's own order), or as a wnid."""
    lines = file.read_text().split()
    table: dict[str, int] = {str(number): label for number, label in label_of_ilsvrc_id().items()} | label_of_wnid()
    return _by_number(file, [_known(table, line, file) for line in lines])


def _pairs(file: Path) -> LabelOf:
    """Lines of `name label`: the label counts from 0 in the sorted order of torchvision and Keras, or is a wnid."""
    table = {str(label): label for label in range(1000)} | label_of_wnid()
    rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise DatasetError(f"{file}: each line must be 'file name, space, class index from 0'")
    labels = {name.rpartition("/")[2]: _known(table, label, file) for name, label in rows}
    return labels.get


def _kaggle(file: Path) -> LabelOf:
    """Kaggle's LOC_val_solution.csv: image id, then wnid and box."""
    with file.open(newline="") as text:
        rows = list(csv.reader(text))[1:]
    labels = {f"{row[0]}.JPEG": _known(label_of_wnid(), row[1].split()[0], file) for row in rows}
    return labels.get


def _table(file: Path) -> LabelOf:
    """A labels.csv as for any folder."""
    with file.open(newline="", encoding="utf-8-sig") as text:
        labels = {
            row["key"].rpartition("/")[2]: _known(_table_labels(), row["label"], file) for row in csv.DictReader(text)
        }
    return labels.get


def _table_labels() -> dict[str, int]:
    return {str(label): label for label in range(1000)}


def _by_number(file: Path, labels: Sequence[int]) -> LabelOf:
    def label_of(name: str) -> int | None:
        match = _NUMBER.search(name)
        if match is None:
            raise DatasetError(f"{name} has no image number (ILSVRC2012_val_00000001.JPEG), which {file.name} goes by")
        number = int(match[1])
        return labels[number - 1] if 0 < number <= len(labels) else None

    return label_of


def _known(table: dict[str, int], label: str, file: Path) -> int:
    if label not in table:
        raise DatasetError(f"{file}: {label!r} is no ImageNet class in the numbering of this file")
    return table[label]


# By file name: the numbering differs between them, and nothing in the numbers themselves tells which it is.
_READERS: dict[str, Callable[[Path], LabelOf]] = {
    _GROUND_TRUTH: _ground_truth,
    "LOC_val_solution.csv": _kaggle,
    "val.txt": _pairs,
    "labels.csv": _table,
}
