"""A model of 16 x 16 pixels and 5 classes, and folders of small photographs: whole runs in seconds."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from jobs.preprocessing import Preprocessing
from jobs.runs import open_or_create
from jobs.spec import RunSpec

MODEL = "tests.jobs.tiny:model"
PREPROCESSING = Preprocessing(resize=16, crop=(16, 16), interpolation="bilinear")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.block = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.block(self.relu(self.stem(x)))).mean((2, 3)))


def model() -> tuple[nn.Module, Preprocessing]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny(), PREPROCESSING


class Escaping(Tiny):
    """Calls an operation for which there is no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.relu(self.stem(x))).mean((2, 3)).cumprod(1))


def escaping() -> tuple[nn.Module, Preprocessing]:
    model_of_its_weights = Escaping()
    model_of_its_weights.load_state_dict(model()[0].state_dict())
    return model_of_its_weights, PREPROCESSING


class Fragile(Tiny):
    """Falls over photographs that are all white."""

    def __init__(self, fall) -> None:
        super().__init__()
        self.fall = fall

    def forward(self, x: Tensor) -> Tensor:
        if (x.flatten(1).std(1) < 1e-3).logical_and(x.flatten(1).mean(1) > 2).any():
            self.fall()
        return super().forward(x)


def raising() -> tuple[nn.Module, Preprocessing]:
    """A model that raises at a white photograph. (White is 2.2 or more after normalisation, in every channel.)"""

    def fall() -> None:
        raise RuntimeError("white")

    return _fragile(fall)


def deadly() -> tuple[nn.Module, Preprocessing]:
    """A model that takes its process down at a white photograph, as a fault in native code does."""
    return _fragile(lambda: os._exit(1))


def _fragile(fall) -> tuple[nn.Module, Preprocessing]:
    fragile = Fragile(fall)
    fragile.load_state_dict(model()[0].state_dict())
    return fragile, Preprocessing(resize=16, crop=(16, 16), mean=(0.1,) * 3, std=(0.1,) * 3)


def white(path: Path) -> Path:
    Image.new("RGB", (18, 20), "white").save(path)
    return path


def new_run(folder: Path, output: Path, **changes):
    """A run of two methods that is planned and not begun, and its spec: CPU workers, one pass holds four rows."""
    fields = {"methods": ("saliency", "ig(n_steps=3)"), "model": MODEL, "shard_length": 3, "rows_per_pass": 4}
    fields |= {"gpus_per_worker": 0.0, "workers": 1, "keep_bits": 23, "output": str(output)}
    return open_or_create(RunSpec(dataset=str(folder), **{**fields, **changes}), "cpu")


def contents(run) -> dict[str, bytes]:
    """Every map of a run, to compare runs to the bit."""
    return {array.group: run.attributions(array.group)[:].tobytes() for array in run.arrays}


def photographs(folder: Path, count: int, *, classes: int = 2) -> Path:
    """`count` PNGs of 20 x 18 pixels in class folders; no two alike."""
    for number in range(count):
        rng = np.random.default_rng(number)
        path = folder / f"class{number % classes}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)).save(path)
    return folder
