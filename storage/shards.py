"""The bytes of one Zarr shard: what Zarr's own sharding codec writes, byte for byte, without its event loop.

That loop is one thread of a process, whoever calls it, and between its codecs every chunk is copied. Here a chunk is a
function of its maps, so that a GPU's worker can have many compressed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

COMPRESSION = {"cname": "lz4", "clevel": 5}
_ABSENT = 2**64 - 1  # offset and size of a chunk that is not stored

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""How to call something for each of many: `map`, or an executor's."""


def shard_bytes(maps: np.ndarray, images_per_chunk: int, shard_length: int, each: Each = map) -> bytes:
    """Chunks one after the other, then where each begins and how long it is, then that table's checksum.

    maps (n, *shape) float32, n at most shard_length; a chunk that they do not fill is filled up with NaN.
    """
    chunks = list(
        each(
            _chunk, (_whole(maps[i : i + images_per_chunk], images_per_chunk) for i in _starts(maps, images_per_chunk))
        )
    )
    table = np.full((shard_length // images_per_chunk, 2), _ABSENT, "<u8")
    table[: len(chunks), 1] = [len(content) + len(checksum) for content, checksum in chunks]
    table[: len(chunks), 0] = np.cumsum(table[: len(chunks), 1]) - table[: len(chunks), 1]
    index = table.tobytes()
    return b"".join([part for chunk in chunks for part in chunk] + [index, _checksum(index)])


def _starts(maps: np.ndarray, images_per_chunk: int) -> range:
    return range(0, len(maps), images_per_chunk)


def _whole(maps: np.ndarray, images_per_chunk: int) -> np.ndarray:
    missing = images_per_chunk - len(maps)
    if not missing:
        return np.ascontiguousarray(maps, "<f4")
    return np.concatenate([maps, np.full((missing, *maps.shape[1:]), np.nan, "<f4")])


def _chunk(maps: np.ndarray) -> tuple[bytes, bytes]:
    content = _blosc().encode(maps)
    return content, _checksum(content)


@cache
def _blosc() -> Any:
    from numcodecs import Blosc

    return Blosc(**COMPRESSION, shuffle=Blosc.BITSHUFFLE)


def _checksum(content: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(content)).to_bytes(4, "little")
