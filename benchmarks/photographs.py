"""Real images as the engine takes them: from any data set that `submit --dataset` takes, repeated where there are too few."""

import math

import numpy as np
import pyarrow as pa
import torch

from attribution.explain import Images, Normalisation
from jobs.datasets import index_dataset
from jobs.images import decode_rows
from jobs.models import Loaded


def photographs(loaded: Loaded, dataset: str | None, count: int, device: str = "cpu") -> Images:
    """The first `count` images of the data set, of the sample where none is named."""
    index = index_dataset(dataset or "sample").index.slice(0, count)
    if len(index) < count:
        index = pa.concat_tables([index] * math.ceil(count / len(index))).slice(0, count)
    decoded = decode_rows(index, loaded.preprocessing)
    mean, std = (np.array(v, np.float32) for v in (loaded.preprocessing.mean, loaded.preprocessing.std))
    pixels = torch.from_numpy((decoded.pixels / np.float32(255) - mean) / std).movedim(3, 1).contiguous()
    return Images(
        pixels.to(device),
        tuple(map(str, range(len(pixels)))),
        torch.full((len(pixels),), -1, device=device),
        Normalisation(tuple(mean.tolist()), tuple(std.tolist())),
    )
