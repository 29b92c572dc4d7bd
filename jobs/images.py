"""Photographs to pixels: every picture of an index becomes a uint8 crop or a failure with its reason, never a crash."""

import io
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from jobs.fetching import Fetcher, read_row
from jobs.places import AwayError, ReadError, is_away
from jobs.preprocessing import Preprocessing
from storage.records import Failure, Stage

__all__ = ["AwayError", "DecodeError", "Decoded", "Preprocessing", "ReadError", "decode", "decode_rows"]

logger = logging.getLogger(__name__)

# Formats that only hold pixels. Pillow also opens EPS (through Ghostscript), PDF, plug-in and film formats: not from strangers.
# With a list of formats it registers none by itself, and its builds differ in which they have.
Image.init()
_FORMATS = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF") if name in Image.OPEN
)
# Pillow's own limit against decompression bombs, kept here whatever the process has set: 0.7 GB of RGB in pillow's memory.
_PIXEL_LIMIT = 178_956_970
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Waits between reads while none succeeds. A store that is away is given most of a minute, less than the driver waits for a decode;
# a bad sector is not.
_AWAY_PAUSES_S = (0.2, 1.0, 4.0, 15.0, 30.0)
_ERROR_PAUSES_S = (0.2, 1.0)


class DecodeError(ValueError):
    """These bytes are no picture that we can show to a model; the message says why."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The readable images of some index rows, and a Failure for each of the others."""

    pixels: np.ndarray  # (n, H, W, 3) uint8
    rows: np.ndarray  # (n,) int64, image numbers of the index
    failures: tuple[Failure, ...]


def decode(content: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """The crop that the model sees, (H, W, 3) uint8; raises DecodeError and nothing else, whatever the bytes.

    The photograph is turned upright by its EXIF orientation, 16-bit grey is scaled, transparency lies on white.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_size(image.width, image.height)
            return np.asarray(preprocessing.apply(_rgb(_upright(image))))
    except DecodeError:
        raise
    except Exception as error:  # pillow raises OSError, SyntaxError, struct.error, KeyError, ... on damaged files
        raise DecodeError(_reason(content, error)) from error


def decode_rows(index_rows: pa.Table, preprocessing: Preprocessing) -> Decoded:
    """Read and decode some rows of an index; what can't be had becomes a Failure of stage read or decode.

    A read that may succeed later is put off behind the others. AwayError where the store itself does not answer for a minute:
    that is no fault of these images.
    """
    images, queue = index_rows["image"].to_pylist(), deque(index_rows.to_pylist())
    crops: dict[int, np.ndarray] = {}
    failures: dict[int, Failure] = {}
    answered: Mapping[str, Any] | None = None  # a row that could be read
    misses = 0  # in a row
    with Fetcher() as fetcher:
        while queue:
            row = queue.popleft()
            try:
                crops[row["image"]] = decode(fetcher.fetch(row, () if misses else queue), preprocessing)
            except (ReadError, DecodeError) as error:
                failures[row["image"]] = _failure(row, error, attempts=1)
            except OSError as error:
                queue.append(row)
                fetcher.forget()
                pauses_s = _AWAY_PAUSES_S if is_away(error) else _ERROR_PAUSES_S
                if misses < len(pauses_s):
                    logger.warning("image not read, waiting", extra={"key": row["key"], "reason": str(error)})
                    time.sleep(pauses_s[misses])
                    misses += 1
                    continue
                if is_away(error) and not _answers(answered):
                    raise AwayError(f"the store of {row['uri']} does not answer: {error}") from error
                failures |= {each["image"]: _failure(each, error, attempts=1 + misses) for each in queue}
                break
            answered, misses = row, 0
    pixels = [crops[image] for image in images if image in crops]
    return Decoded(
        np.stack(pixels) if pixels else np.empty((0, *preprocessing.crop, 3), np.uint8),
        np.array([image for image in images if image in crops], np.int64),
        tuple(failures[image] for image in images if image in failures),
    )


def _answers(row: Mapping[str, Any] | None) -> bool:
    """Whether what could be read before still can: then the store is there, and the others are at fault."""
    try:
        return row is not None and bool(read_row(row))
    except ReadError:
        return True
    except OSError:
        return False


def _failure(row: Mapping[str, Any], error: Exception, attempts: int) -> Failure:
    stage: Stage = "decode" if isinstance(error, DecodeError) else "read"
    return Failure(image=row["image"], key=row["key"], method=None, stage=stage, error=str(error), attempts=attempts)


def _check_size(width: int, height: int) -> None:
    if width * height > _PIXEL_LIMIT:
        raise DecodeError(f"{width} x {height} pixels are more than {_PIXEL_LIMIT}: a decompression bomb?")
    if not width * height:
        raise DecodeError(f"no pixels: {width} x {height}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # a damaged EXIF block does not spoil the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise DecodeError("32-bit float pixels have no defined white; convert the file to 8 or 16 bits")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8 by dividing by 257; pillow's own conversion clips everything above 255 to white."""
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise DecodeError("32-bit integer pixels have no defined white; convert the file to 8 or 16 bits")
    return Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "zero bytes"
    if isinstance(error, UnidentifiedImageError):
        return f"no picture in a known format; the {len(content)} bytes start with {content[:16]!r}"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, Image.DecompressionBombError):
        return str(error)
    text = str(error).strip().split("\n", 1)[0][:200]
    return f"damaged picture: {text or type(error).__name__}"
