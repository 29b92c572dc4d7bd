"""What turns a photograph into the pixels that a model was trained to see, on the CPU, with pillow alone."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

from PIL import Image

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
# Half-width of the widest filter (Lanczos) in units of max(scale, 1).
_WIDEST_FILTER = 3
# A resized image of more pixels than this is never made: 4096 x 4096 takes 64 MiB in pillow. Only strips longer than about
# 250 times their width meet it.
_RESIZED_PIXEL_LIMIT = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop, normalise: the evaluation transform of the weights, as a value that a run records.

    `resize` is the length of the shorter edge, or (height, width) to squash, or None to keep the size; `crop` is (height, width).
    """

    resize: int | tuple[int, int] | None = 256
    crop: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        resize = self.resize if isinstance(self.resize, int | None) else tuple(self.resize)
        object.__setattr__(self, "resize", resize)
        for name in ("crop", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = (*self.crop, *(() if resize is None else (resize,) if isinstance(resize, int) else resize))
        if len(self.crop) != 2 or min(lengths) < 1 or (isinstance(resize, tuple) and len(resize) != 2):
            raise ValueError(
                f"preprocessing: resize {self.resize} and crop {self.crop} must be pixels, crop as (height, width)"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"preprocessing: interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"preprocessing: mean {self.mean} and std {self.std} must be 3 numbers each, std above 0")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(record) - set(names)):
            raise ValueError(f"preprocessing: unknown fields {', '.join(unknown)}; known: {', '.join(names)}")
        return cls(**record)

    def apply(self, image: Image.Image) -> Image.Image:
        """The crop that the model sees, equal to torchvision's Resize and CenterCrop on the same image to the bit.

        A strip so long that its resized form would fill the memory is cut down to the part that the crop reads before it is
        resized; there a grey level may differ by one.
        """
        width, height = self._resized_size(image.width, image.height)
        if (width, height) != image.size and width * height > _RESIZED_PIXEL_LIMIT:
            return self._resize_crop_only(image, width, height)
        if (width, height) != image.size:
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        left, top = _crop_start(width, self.crop[1]), _crop_start(height, self.crop[0])
        return image.crop((left, top, left + self.crop[1], top + self.crop[0]))

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        if self.resize is None:
            return width, height
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        long = int(self.resize * max(width, height) / min(width, height))
        return (self.resize, long) if width <= height else (long, self.resize)

    def _resize_crop_only(self, image: Image.Image, width: int, height: int) -> Image.Image:
        x, y = _span(image.width, width, self.crop[1]), _span(image.height, height, self.crop[0])
        part = image.crop((x.low, y.low, x.high, y.high))
        box = (x.start, y.start, x.stop, y.stop)
        resized = part.resize((x.length, y.length), INTERPOLATIONS[self.interpolation], box=box)
        return resized.crop((-x.padding, -y.padding, self.crop[1] - x.padding, self.crop[0] - y.padding))


class _Span(NamedTuple):
    """One axis of a crop: the part of the source that its filter reads, where the crop lies in that part, and what it becomes."""

    low: int
    high: int
    start: float
    stop: float
    length: int
    padding: int  # black pixels before it, where the image is smaller than the crop


def _span(source: int, target: int, crop: int) -> _Span:
    scale = source / target
    start = _crop_start(target, crop)
    first, last = max(start, 0), min(start + crop, target)
    margin = math.ceil(_WIDEST_FILTER * max(scale, 1)) + 1
    low, high = max(math.floor(first * scale) - margin, 0), min(math.ceil(last * scale) + margin, source)
    return _Span(low, high, first * scale - low, min(last * scale, high) - low, last - first, first - start)


def _crop_start(length: int, crop: int) -> int:
    """Where a centre crop starts; before the image (pillow then pads with 0) where the image is the smaller."""
    return -((crop - length) // 2) if crop > length else round((length - crop) / 2)
