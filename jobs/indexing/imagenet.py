"""ImageNet's validation set in the forms people have it: folders by wnid, a flat folder, or the tar as it was published."""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from jobs.indexing.entry import DatasetError, Entry, Source, to_table
from jobs.indexing.imagenet_classes import class_names, label_of_ilsvrc_id, label_of_wnid
from jobs.indexing.listing import Place, folder_at, images, suffix
from jobs.indexing.tar import tar_entries

NAME = "imagenet-val"
ROOT_VARIABLE = "IMAGENET_ROOT"
_TAR = "ILSVRC2012_img_val.tar"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_LAYOUTS = f"val/<wnid>/*.JPEG, or val/*.JPEG or {_TAR} with a label file beside it ({_GROUND_TRUTH}, LOC_val_solution.csv, val.txt or labels.csv)"
# Below a root: where the images, the tar and the label files lie in the published kits, Kaggle's copy and torchvision's.
_IMAGE_FOLDERS = ("val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "")
_LABEL_FOLDERS = ("", "val", "devkit/data", "data", "ILSVRC2012_devkit_t12/data", "ILSVRC/devkit/data", "..")
_KEY = re.compile(r"(?:(n\d{8})/)?[^/]+")
_NUMBER = re.compile(r"val_0*(\d+)\.")

LabelOf = Callable[[str], int | None]  # file name -> class index


def index_imagenet_val(data_root: str | None) -> Source:
    """Keys are the file names (ILSVRC2012_val_00000001.JPEG) in every layout, so that runs on different copies compare."""
    root = data_root or os.environ.get(ROOT_VARIABLE)
    if not root:
        raise DatasetError(
            f"{NAME} needs its folder: pass --data-root DIR or set {ROOT_VARIABLE}; understood layouts: {_LAYOUTS}"
        )
    if suffix(root) == "tar":
        folder, _, file = root.rpartition("/")
        return _labelled(_tar(folder_at(folder or "."), file), folder_at(folder or "."))
    for name in _IMAGE_FOLDERS:
        place = folder_at(f"{root}/{name}")
        first = next(images(place.files()), None)
        if first is None or (match := _KEY.fullmatch(first.key)) is None:
            continue
        if match[1]:
            return _source(_by_wnid(images(place.files()), place.uri), "class folders (ImageNet wnids)")
        return _labelled(images(place.files()), folder_at(root))
    return _labelled(_tar(folder_at(root), _TAR), folder_at(root))


def _tar(place: Place, name: str) -> Iterator[Entry]:
    archive = place.file(name)
    if archive is None:
        raise DatasetError(f"{NAME}: nothing in {place.uri} looks like it; understood layouts: {_LAYOUTS}")
    return tar_entries([archive])


def _by_wnid(entries: Iterable[Entry], place: str) -> Iterator[Entry]:
    labels = label_of_wnid()
    for entry in entries:
        wnid, _, name = entry.key.partition("/")
        if wnid not in labels or "/" in name:
            raise DatasetError(f"{place}/{entry.key} does not lie in a folder of an ImageNet class (n01440764, ...)")
        yield entry._replace(key=name, label=labels[wnid])


def _labelled(entries: Iterable[Entry], root: Place) -> Source:
    for file in (f"{folder}/{name}".lstrip("/") for name in _READERS for folder in _LABEL_FOLDERS):
        text = root.text(file)
        if text is not None:
            name = file.rpartition("/")[2]
            return _source(_with_labels(entries, _READERS[name](text, f"{root.uri}/{file}")), name)
    return _source(_with_labels(entries, lambda _: None), None)


def _with_labels(entries: Iterable[Entry], label_of: LabelOf) -> Iterator[Entry]:
    for entry in entries:
        name = entry.key.rpartition("/")[2]
        yield entry._replace(key=name, label=label_of(name))


def _source(entries: Iterable[Entry], label_source: str | None) -> Source:
    return Source(
        table=to_table(entries),
        name=NAME,
        label_source=label_source,
        class_names=class_names(),
        licence="ImageNet terms of access: non-commercial research and education",
    )


def _ground_truth(text: str, file: str) -> LabelOf:
    """Line n is the class of image n, as an ILSVRC number (1 to 1000, in the kit's own order) or as a wnid."""
    table = {str(number): label for number, label in label_of_ilsvrc_id().items()} | label_of_wnid()
    labels = [_known(table, line, file) for line in text.split()]

    def label_of(name: str) -> int | None:
        match = _NUMBER.search(name)
        if match is None:
            raise DatasetError(f"{name} has no image number (ILSVRC2012_val_00000001.JPEG), which {file} goes by")
        number = int(match[1])
        return labels[number - 1] if 0 < number <= len(labels) else None

    return label_of


def _pairs(text: str, file: str) -> LabelOf:
    """Lines of `name label`: the label counts from 0 in the sorted order of torchvision and Keras, or is a wnid."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise DatasetError(f"{file}: each line must be 'file name, space, class index from 0'")
    return _by_name([(name, label) for name, label in rows], file)


def _kaggle(text: str, file: str) -> LabelOf:
    """Kaggle's LOC_val_solution.csv: image id, then wnid and box."""
    return _by_name(
        [(f"{row['ImageId']}.JPEG", row["PredictionString"].split()[0]) for row in csv.DictReader(text.splitlines())],
        file,
    )


def _table(text: str, file: str) -> LabelOf:
    """A labels.csv as for any folder."""
    return _by_name([(row["key"], row["label"]) for row in csv.DictReader(text.splitlines())], file)


def _by_name(rows: Sequence[tuple[str, str]], file: str) -> LabelOf:
    table = {str(label): label for label in range(1000)} | label_of_wnid()
    return {name.rpartition("/")[2]: _known(table, label, file) for name, label in rows}.get


def _known(table: dict[str, int], label: str, file: str) -> int:
    if label not in table:
        raise DatasetError(f"{file}: {label!r} is no ImageNet class in the numbering of this file")
    return table[label]


# By file name: the numbering differs between them, and nothing in the numbers themselves tells which it is.
_READERS: dict[str, Callable[[str, str], LabelOf]] = {
    _GROUND_TRUTH: _ground_truth,
    "LOC_val_solution.csv": _kaggle,
    "val.txt": _pairs,
    "labels.csv": _table,
}
