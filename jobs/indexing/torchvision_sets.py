"""torchvision's data sets of image files: the class reads its own lists and labels, and we keep the paths."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.indexing.entry import DatasetError, Entry, Source, to_table
from jobs.places import local_uri, local_version

# Name -> torchvision's class. Each keeps (path, label) pairs, in one of the two forms that `_pairs` knows.
_CLASSES = {
    "country211": "Country211",
    "dtd": "DTD",
    "eurosat": "EuroSAT",
    "fgvcaircraft": "FGVCAircraft",
    "flowers102": "Flowers102",
    "food101": "Food101",
    "gtsrb": "GTSRB",
    "oxfordiiitpet": "OxfordIIITPet",
    "stanfordcars": "StanfordCars",
    "sun397": "SUN397",
}
NAMES = tuple(_CLASSES)


def index_torchvision(name: str, split: str, root: Path) -> Source:
    """The split's images; data sets without splits are taken whole."""
    # Here and not above: other data sets, and every decode worker, do without torch.
    torchvision = importlib.import_module("jobs.torchvision_shim").torchvision
    kind = getattr(torchvision.datasets, _CLASSES[name])
    options = {} if name in {"eurosat", "sun397"} else {"split": split}
    try:
        dataset = kind(root, **options)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        reason = str(error).split("\n", 1)[0].replace("You can use download=True to download it", "").strip()
        raise DatasetError(
            f"{name}:{split} can't be read from {root} ({reason}); unpack it there as torchvision lays it out"
        ) from error
    names = getattr(dataset, "classes", None)
    return Source(
        table=to_table(_entries(dataset, root)),
        name=f"{name}:{split}" if options else name,
        label_source=f"torchvision {_CLASSES[name]}",
        class_names=tuple(map(str, names)) if names else None,
    )


def _entries(dataset: Any, root: Path) -> Iterator[Entry]:
    for path, label in _pairs(dataset):
        file = Path(path).resolve()
        status = file.stat()
        yield Entry(
            file.relative_to(root.resolve()).as_posix(),
            local_uri(str(file)),
            None,
            status.st_size,
            int(label),
            local_version(status),
        )


def _pairs(dataset: Any) -> list[tuple[Any, Any]]:
    for samples in ("samples", "_samples"):
        if hasattr(dataset, samples):
            return list(getattr(dataset, samples))
    images = "_image_files" if hasattr(dataset, "_image_files") else "_images"
    return list(zip(getattr(dataset, images), dataset._labels, strict=True))  # noqa: SLF001  # torchvision offers no paths
