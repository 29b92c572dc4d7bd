"""Which features are perturbed together: a mask holds the number of each feature's region, or windows slide."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attribution.errors import AttributionError, ExpressionError, nearest
from attribution.images import Images
from attribution.patches import Box

Shape = tuple[int, ...]
"""Of one image's features, without the rows."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions as a user names them: `grid(7)`, `grid(4,6)`, `slic(50)`, `pixels`, `channels`, `elements`, `mask`, `cells.npy`."""

    name: str
    numbers: tuple[int, ...] = ()
    path: str | None = None

    def mask(self, shape: Shape, images: Images) -> Tensor:
        """For each feature the number of its region, from 0 and without gaps.  (1 or N, *shape or broadcast to it), int64"""
        mask = MASKS[self.name](self, shape, images)
        fits = mask.dim() == len(shape) + 1 and all(own in (1, n) for own, n in zip(mask.shape[1:], shape, strict=True))
        if not fits or len(mask) not in (1, len(images)):
            raise AttributionError(f"a mask of shape {tuple(mask.shape)} does not fit features of shape {shape}")
        return mask.to(images.pixels.device)

    def count(self, shape: Shape) -> int:
        """How many regions there will be, or about how many where that depends on the image."""
        if self.name in ("slic", "mask"):
            return self.numbers[0] if self.numbers else 50  # for planning
        return int(self.mask(shape, NO_IMAGES).max()) + 1


def parse_regions(text: str) -> Regions:
    """Read what `regions=` says."""
    if text.endswith(".npy"):
        return Regions("file", path=text)
    match = re.fullmatch(r"(\w+)(?:\((\d+(?:, ?\d+)*)\))?", text)
    name, numbers = (match[1], tuple(map(int, re.findall(r"\d+", match[2] or "")))) if match else (text, ())
    if name not in ALLOWED_NUMBERS:
        raise ExpressionError(f"regions {text!r} not found; {nearest(text, ALLOWED_NUMBERS)}, or a mask's path.npy")
    if len(numbers) not in ALLOWED_NUMBERS[name] or 0 in numbers:
        raise ExpressionError(f"regions {text!r} not understood; write it like {EXAMPLES.get(name, name)!r}")
    return Regions(name, numbers)


def consecutive(mask: Tensor) -> Tensor:
    """The same regions of each image, numbered from 0 without gaps.  (N, ...)"""
    return torch.stack([torch.unique(row, return_inverse=True)[1] for row in mask])


def _grid(regions: Regions, shape: Shape, _images: Images) -> Tensor:
    """Cells over the last two dimensions, or over the only one; no more of them than there are features."""
    spread = shape[-2:]
    cells = (regions.numbers * 2)[: len(spread)] if len(regions.numbers) == 1 else regions.numbers[-len(spread) :]
    number = torch.zeros((), dtype=torch.int64)
    for extent, cell_count in zip(spread, (min(pair) for pair in zip(cells, spread, strict=True)), strict=True):
        number = number.unsqueeze(-1) * cell_count + torch.arange(extent) * cell_count // extent
    return number.reshape(1, *([1] * (len(shape) - len(spread))), *spread)


def _numbered(kept: slice) -> Callable[[Regions, Shape, Images], Tensor]:
    """Every index of those dimensions is a region, the other dimensions go with it."""

    def mask(_regions: Regions, shape: Shape, _images: Images) -> Tensor:
        own = [1] * len(shape)
        own[kept] = shape[kept]
        return torch.arange(prod(own)).reshape(1, *own)

    return mask


def _given(_regions: Regions, _shape: Shape, images: Images) -> Tensor:
    if images.mask is None:
        raise ExpressionError("regions 'mask' needs the masks: give Images(mask=...), or name a mask's path.npy")
    return consecutive(images.mask)


def _file(regions: Regions, shape: Shape, _images: Images) -> Tensor:
    path = Path(str(regions.path))
    if not path.is_file():
        raise ExpressionError(f"mask {regions.path!r} not found: give the path of an array of whole numbers")
    mask = np.load(path, allow_pickle=False)
    if mask.dtype.kind not in "iub":
        raise ExpressionError(f"mask {regions.path!r} holds {mask.dtype}, not the whole numbers of regions")
    return consecutive(torch.from_numpy(mask.astype(np.int64)).reshape(1, *[1] * (len(shape) - mask.ndim), *mask.shape))


def _slic(regions: Regions, shape: Shape, images: Images) -> Tensor:
    """Superpixels (Achanta et al. 2012, SLIC), of each image on its own."""
    if shape != tuple(images.pixels.shape[1:]):
        raise ExpressionError("regions 'slic' are pieces of the image: at a layer use grid(7), channels or pixels")
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ExpressionError("regions 'slic' need scikit-image: pip install scikit-image, or use grid(7)") from error
    pixels = images.normalisation.pixels(images.pixels).movedim(1, -1).double().cpu().numpy()
    pieces = [slic(image, n_segments=regions.numbers[0], channel_axis=-1, start_label=0) for image in pixels]
    return consecutive(torch.from_numpy(np.stack(pieces)).long()).unsqueeze(1)


MASKS: dict[str, Callable[[Regions, Shape, Images], Tensor]] = {
    "grid": _grid,
    "slic": _slic,
    "pixels": _numbered(slice(-2, None)),
    "channels": _numbered(slice(0, 1)),
    "elements": _numbered(slice(None)),
    "mask": _given,
    "file": _file,
}
"""pixels: each place with all its channels; channels: each index of the first dimension; elements: every number alone."""
ALLOWED_NUMBERS = {"grid": (1, 2), "slic": (1,), "pixels": (0,), "channels": (0,), "elements": (0,), "mask": (0,)}
EXAMPLES = {"grid": "grid(7)", "slic": "slic(50)"}
NO_IMAGES = Images(torch.zeros(0), (), torch.zeros(0))


Window = tuple[slice, ...]
"""An index into (N, *features): all rows, and a box of the features."""


def sliding_windows(
    shape: tuple[int, ...], window: int | tuple[int, ...], stride: int | tuple[int, ...]
) -> Iterator[Window]:
    """Boxes of size `window` every `stride`; the last of each dimension ends at the edge and may be smaller.

    shape without the rows, e.g. (C, H, W). A number, or fewer sizes than dimensions, speaks of the last dimensions, and the
    first ones are covered whole.
    """
    sizes = _per_dimension(shape, window, whole=shape)
    steps = _per_dimension(shape, stride, whole=shape)
    for size, step, extent in zip(sizes, steps, shape, strict=True):
        if size < 1 or step < 1 or (step > size and size < extent):
            raise AttributionError(
                f"window {window} with stride {stride} leaves gaps: a stride is 1 to the window's size"
            )
    starts = [
        [i * step for i in range(max(0, ceil((extent - size) / step)) + 1)]
        for size, step, extent in zip(sizes, steps, shape, strict=True)
    ]
    for corner in product(*starts):
        box = zip(corner, sizes, shape, strict=True)
        yield (slice(None), *(slice(start, min(start + size, extent)) for start, size, extent in box))


def box_of(window: Window) -> Box | None:
    """The window's rows and columns of maps (N, C, H, W); None of other features."""
    return None if len(window) != 4 else Box(window[2].start, window[2].stop, window[3].start, window[3].stop)


def _per_dimension(shape: tuple[int, ...], value: int | tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    given = value if isinstance(value, tuple) else (value,) * min(2, len(shape))
    if len(given) > len(shape):
        raise AttributionError(f"{value} has more sizes than the features' {len(shape)} dimensions {shape}")
    return (*whole[: len(shape) - len(given)], *given)
