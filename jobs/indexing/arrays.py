"""Data sets that keep raw pixels in plain binary files, STL-10 and MNIST's family: read by offset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.indexing.entry import DatasetError, Entry, Source, to_table
from jobs.places import local_version
from jobs.reading import planes_uri

_DIGITS = tuple("0123456789")
_STL_SIDE = 96
_IDX_IMAGES, _IDX_LABELS = 2051, 2049  # the magic numbers of MNIST's two kinds of file
_IDX_IMAGE_HEADER, _IDX_LABEL_HEADER = 16, 8


@dataclass(frozen=True, slots=True)
class _Idx:
    """One of MNIST's family: torchvision's folder for it and its classes."""

    folder: str
    class_names: tuple[str, ...]


_FAMILY = {
    "mnist": _Idx("MNIST", _DIGITS),
    "fashionmnist": _Idx(
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": _Idx("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
}
_SPLITS = ("test", "train")
NAMES = ("stl10", *_FAMILY)


def index_arrays(name: str, split: str, root: Path) -> Source:
    if split not in _SPLITS:
        raise DatasetError(f"{name} has no split {split!r}; known: {', '.join(_SPLITS)}")
    return _stl10(split, root) if name == "stl10" else _idx(name, split, root)


def _stl10(split: str, root: Path) -> Source:
    folder = _folder("stl10", root, "stl10_binary", f"{split}_X.bin")
    labels = np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(int) - 1  # they count from 1
    uri = planes_uri(str(folder / f"{split}_X.bin"), 3, _STL_SIDE, _STL_SIDE, transposed=True)
    names = folder / "class_names.txt"
    return Source(
        table=to_table(_rows(folder / f"{split}_X.bin", uri, 0, 3 * _STL_SIDE**2, labels.tolist())),
        name=f"stl10:{split}",
        label_source=f"{split}_y.bin",
        class_names=tuple(names.read_text().split()) if names.is_file() else None,
    )


def _idx(name: str, split: str, root: Path) -> Source:
    kind = _FAMILY[name]
    stem = "t10k" if split == "test" else "train"
    folder = _folder(name, root, f"{kind.folder}/raw", f"{stem}-images-idx3-ubyte")
    images, labels = folder / f"{stem}-images-idx3-ubyte", folder / f"{stem}-labels-idx1-ubyte"
    magic, count, height, width = np.fromfile(images, ">i4", 4).tolist()
    label_magic, label_count = np.fromfile(labels, ">i4", 2).tolist()
    if (magic, label_magic) != (_IDX_IMAGES, _IDX_LABELS) or count != label_count:
        raise DatasetError(f"{images} and {labels.name} are no pair of MNIST's format (magic {magic}, {label_magic})")
    numbers = np.fromfile(labels, np.uint8, offset=_IDX_LABEL_HEADER).tolist()
    return Source(
        table=to_table(
            _rows(images, planes_uri(str(images), 1, height, width), _IDX_IMAGE_HEADER, height * width, numbers)
        ),
        name=f"{name}:{split}",
        label_source=labels.name,
        class_names=kind.class_names,
    )


def _rows(file: Path, uri: str, header: int, image_bytes: int, labels: Sequence[int]) -> Iterator[Entry]:
    status = file.stat()
    if status.st_size != header + image_bytes * len(labels):
        raise DatasetError(f"{file} has {status.st_size} bytes, not {len(labels)} images of {image_bytes}")
    for row, label in enumerate(labels):
        yield Entry(
            f"{file.name}/{row:05d}", uri, header + row * image_bytes, image_bytes, label, local_version(status)
        )


def _folder(name: str, root: Path, folder: str, file: str) -> Path:
    for place in (root, root / folder):
        if (place / file).is_file():
            return place
    raise DatasetError(f"{name}: no {folder}/{file} in {root}; unpack the data set's archives there")
