"""Photographs that come with scikit-image's wheel: real images for a first run, without a download."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from jobs.indexing.entry import DatasetError, Entry, Source, to_table
from jobs.indexing.imagenet_classes import class_names

# File -> ImageNet class where anybody looking at the photograph would name that one, else None: ImageNet has no astronaut, coins or
# motorcycle, the cat may be a tabby, a tiger cat or an Egyptian cat, and the moving clock is a blur. All are in the public domain or CC0 by their authors, as scikit-image's documentation of `skimage.data` states.
_PHOTOGRAPHS: dict[str, int | None] = {
    "astronaut.png": None,
    "brick.png": None,
    "camera.png": None,
    "chelsea.png": None,
    "clock_motion.png": None,
    "coffee.png": 967,  # espresso
    "coins.png": None,
    "grass.png": None,
    "gravel.png": None,
    "hubble_deep_field.jpg": None,
    "moon.png": None,
    "motorcycle_left.png": None,
    "motorcycle_right.png": None,
    "retina.jpg": None,
    "rocket.jpg": None,
}


def index_sample() -> Source:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise DatasetError(
            "the sample data set needs the sample extra: pip install 'ascribe[sample]'; or pass a folder of images"
        )
    return Source(
        table=to_table(_entries(Path(package.origin).parent / "data")),
        name="sample",
        label_source="by eye",
        class_names=class_names(),
        licence="public domain and CC0 (scikit-image's data)",
    )


def _entries(folder: Path) -> Iterator[Entry]:
    for name, label in _PHOTOGRAPHS.items():
        file = folder / name
        if file.is_file():  # the wheel's choice changes between versions
            # No version: when the package was installed does not make another data set of it.
            yield Entry(name, str(file), length=file.stat().st_size, label=label)
