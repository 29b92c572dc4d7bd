"""Pictures for tests: small ones that look like photographs, and tiny ones that tell which they are."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.images import Preprocessing, decode_rows
from jobs.torchvision_shim import torchvision

SMALL = Preprocessing(resize=40, crop=(32, 32))
TINY = Preprocessing(resize=None, crop=(8, 8))


def photograph(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: like a photograph, no two pixels the same by design."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9 + k) + np.cos(y / 7 - k) for k in range(3)], axis=-1)
    pixels = np.clip(128 + 50 * waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def torchvision_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    functional = torchvision.transforms.functional
    mode = torchvision.transforms.InterpolationMode(preprocessing.interpolation)
    resize = preprocessing.resize
    if resize is not None:
        size = [resize] if isinstance(resize, int) else list(resize)
        image = functional.resize(image, size, interpolation=mode, antialias=True)
    return np.asarray(functional.center_crop(image, list(preprocessing.crop)))


def picture(number: int, form: str = "PNG") -> bytes:
    """8 x 8 of one colour that tells which picture it is."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 255 - number)).save(file, form)
    return file.getvalue()


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return root


def numbers(index: pa.Table) -> list[int]:
    """Which pictures the rows really lead to."""
    decoded = decode_rows(index, TINY)
    assert not decoded.failures
    return decoded.pixels[:, 0, 0, 0].tolist()


def labels(index: pa.Table) -> dict[str, int | None]:
    return dict(zip(index["key"].to_pylist(), index["label"].to_pylist(), strict=True))


def make_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def make_parquet(path: Path, start: int, count: int) -> Path:
    """As Hugging Face's `datasets` writes it, three rows to a group."""
    images = [{"bytes": picture(n), "path": "same.png"} for n in range(start, start + count)]
    table = pa.table({"image": images, "label": [n % 4 - 1 for n in range(start, start + count)]})
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


def lean_environment() -> dict[str, str]:
    """For a fresh process that must not count threads' stacks as its own memory."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
