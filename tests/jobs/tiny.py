"""A model of 16 x 16 pixels and 5 classes, and folders of small photographs: whole runs in seconds."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from jobs.preprocessing import Preprocessing

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


def photographs(folder: Path, count: int, *, classes: int = 2) -> Path:
    """`count` PNGs of 20 x 18 pixels in class folders; no two alike."""
    for number in range(count):
        rng = np.random.default_rng(number)
        path = folder / f"class{number % classes}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)).save(path)
    return folder
