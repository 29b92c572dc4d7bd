"""Images as the engine takes them: normalised pixels that know who they are."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How pixel values in [0, 1] became what the model sees: (value - mean) / std per channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def normalised(self, level: float, like: Tensor) -> Tensor:
        """One grey level as the model sees it, as a number `like` those of the pixels.  -> (C, 1, 1)"""
        levels = tuple((level - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return per_channel(levels, like.dtype, like.device)

    def pixels(self, normalised: Tensor) -> Tensor:
        """The values in [0, 1] again.  (N, C, H, W)"""
        mean, std = (torch.tensor(level).to(normalised).reshape(-1, 1, 1) for level in (self.mean, self.std))
        return normalised * std + mean


@lru_cache(maxsize=64)
def per_channel(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number for each channel, sent once to a device that would be waited for; not to be written into.  -> (C, 1, 1)"""
    return torch.tensor(numbers, dtype=dtype).reshape(-1, 1, 1).to(device)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """A shard's images: pixels (N, C, H, W) normalised, their keys, labels (N,) with -1 where there is none.

    Labels are best left on the host, which asks whether one is missing and would wait for a device to tell.
    `references` (K, C, H, W) and `mean` (C, H, W) serve the baselines of these names, normalised likewise; `mask`
    (N or 1, ...) of whole numbers serves the regions of this name.
    """

    pixels: Tensor
    keys: tuple[str, ...]
    labels: Tensor
    normalisation: Normalisation = Normalisation()
    references: Tensor | None = None
    mean: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, index: Tensor) -> "Images":
        """Those images only."""
        keys = tuple(self.keys[i] for i in index.tolist())
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[index.to(self.mask.device)]
        return replace(
            self, pixels=self.pixels[index], keys=keys, labels=self.labels[index.to(self.labels.device)], mask=mask
        )
