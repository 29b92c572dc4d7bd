"""CIFAR-10 and CIFAR-100 as published for Python: pickles, which are read here without running what they might hold."""

import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.indexing.entry import DatasetError, Entry, Source, to_table
from jobs.places import local_version
from jobs.reading import planes_uri

_CHANNELS, _SIDE = 3, 32
_IMAGE_BYTES = _CHANNELS * _SIDE * _SIDE
# What an array pickled by Python 2's numpy names; anything else in these files is refused.
_ALLOWED = {("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


@dataclass(frozen=True, slots=True)
class _Layout:
    folder: str
    files: Mapping[str, tuple[str, ...]]  # by split
    labels: str
    names: tuple[str, str]  # file, entry


_LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "labels",
        ("batches.meta", "label_names"),
    ),
    "cifar100": _Layout(
        "cifar-100-python", {"train": ("train",), "test": ("test",)}, "fine_labels", ("meta", "fine_label_names")
    ),
}
NAMES = tuple(_LAYOUTS)


def index_cifar(name: str, split: str, root: Path) -> Source:
    layout = _LAYOUTS[name]
    if split not in layout.files:
        raise DatasetError(f"{name} has no split {split!r}; known: {', '.join(sorted(layout.files))}")
    folder = root if (root / layout.names[0]).is_file() else root / layout.folder
    if not (folder / layout.names[0]).is_file():
        raise DatasetError(f"{name}: no {layout.folder} in {root}; unpack the 'python version' archive there")
    return Source(
        table=to_table(entry for file in layout.files[split] for entry in _entries(folder / file, layout.labels)),
        name=f"{name}:{split}",
        label_source=f"{name}'s {layout.labels}",
        class_names=tuple(_unpickled(folder / layout.names[0])[layout.names[1]]),
    )


def _entries(file: Path, labels: str) -> Iterator[Entry]:
    batch = _unpickled(file)
    pixels = np.ascontiguousarray(batch["data"], dtype=np.uint8)
    # The array lies in the pickle as it lies in memory: images are read from there, and nothing is unpickled again.
    start = file.read_bytes().find(pixels.tobytes())
    if pixels.shape != (len(batch[labels]), _IMAGE_BYTES) or start < 0:
        raise DatasetError(
            f"{file} holds {pixels.shape} numbers, not one row of {_IMAGE_BYTES} for each of {len(batch[labels])} labels"
        )
    version, uri = local_version(file.stat()), planes_uri(str(file), _CHANNELS, _SIDE, _SIDE)
    for row, label in enumerate(batch[labels]):
        yield Entry(f"{file.name}/{row:05d}", uri, start + row * _IMAGE_BYTES, _IMAGE_BYTES, int(label), version)


def _unpickled(file: Path) -> dict[str, Any]:
    try:
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises anything
        raise DatasetError(f"{file} is no batch of CIFAR ({error})") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} is no batch of CIFAR (a {type(content).__name__})")
    return content


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module.rpartition(".")[2], name) not in _ALLOWED or not module.startswith("numpy"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
