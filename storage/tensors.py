"""Maps as Zarr v3: one shard is one unit, NaN where nothing is known, a checksum on every inner chunk.

Zarr is imported where it is used: it takes a quarter of a second, and who asks the tables alone does without.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from storage import layout
from storage.records import ArraySpec, RunRecord, Store
from storage.shards import COMPRESSION, Each, shard_bytes

FLOAT32_MANTISSA_BITS = 23
BUNDLE_BYTES = 64 * 1024  # small maps share an inner chunk up to this: a chunk's overhead is a few hundred microseconds


def round_mantissa(array: np.ndarray, keep_bits: int) -> np.ndarray:
    """float32 rounded to `keep_bits` of mantissa, to nearest, ties to even; NaN and infinity stay. 23 is exact."""
    exact = np.ascontiguousarray(array, dtype=np.float32)
    dropped = FLOAT32_MANTISSA_BITS - keep_bits
    if dropped == 0:
        return exact
    bits = exact.view(np.uint32)
    mask = np.uint32((1 << dropped) - 1)
    rows = np.atleast_2d(bits)  # one after the other: what a row takes on the way stays in the processor's cache
    if not any((row & mask).any() for row in rows):
        return exact  # rounded on the device already
    rounded = np.empty_like(exact)
    for row, into in zip(rows, np.atleast_2d(rounded.view(np.uint32)), strict=True):
        _round_into(into, row, dropped, ~mask)
    return rounded


def _round_into(rounded: np.ndarray, bits: np.ndarray, dropped: int, kept: np.uint32) -> None:
    # Adding half a step, less one where the last kept bit is even, carries into it exactly when it must round up.
    np.right_shift(bits, np.uint32(dropped), out=rounded)
    rounded &= np.uint32(1)
    rounded += np.uint32((1 << (dropped - 1)) - 1)
    rounded += bits
    rounded &= kept
    np.copyto(rounded, bits, where=~np.isfinite(bits.view(np.float32)))


def stored(spec: ArraySpec, store: Store) -> ArraySpec:
    """The form in which a run keeps an array: `channel_sum` drops the channel dimension where there is one."""
    axis = channel_axis(spec) if store == "channel_sum" else None
    if axis is None:
        return spec
    return replace(
        spec, dims=spec.dims[:axis] + spec.dims[axis + 1 :], shape=spec.shape[:axis] + spec.shape[axis + 1 :]
    )


def reduced(maps: np.ndarray, spec: ArraySpec, store: Store) -> np.ndarray:
    """Maps (n, *shape) in the form in which the run keeps them, before rounding."""
    axis = channel_axis(spec) if store == "channel_sum" else None
    if axis is None:
        return maps
    # Summed in float64: the order of summation must not show in the last kept bit.
    return np.asarray(maps.sum(axis=axis + 1, dtype=np.float64), dtype=np.float32)


def channel_axis(spec: ArraySpec) -> int | None:
    """Where a map of two or more dimensions has its channels: the dimension called `channel` or `..._c`."""
    found = [axis for axis, name in enumerate(spec.dims) if name == "channel" or name.endswith("_c")]
    return found[0] if found and len(spec.dims) > 1 else None


def metadata_objects(arrays: Sequence[ArraySpec], record: Mapping[str, Any]) -> dict[str, bytes]:
    """Every Zarr object that exists before the first unit: groups, array metadata, the image coordinate.

    All arrays are declared at their final size, so nothing is ever resized and the consolidated metadata stays true.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    image_count, shard_length = int(record["image_count"]), int(record["shard_length"])
    content: dict[str, Any] = {}
    store = MemoryStore(content)
    root = zarr.create_group(store, attributes={"ascribe": dict(record)})
    for spec in arrays:
        group = root.create_group(spec.group, attributes={**spec.attributes, "method": spec.expression})
        _create_array(group, spec, image_count, shard_length)
        image = group.create_array(
            "image",
            shape=(image_count,),
            chunks=(image_count,),
            dtype="int64",
            dimension_names=("image",),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
        )
        image[:] = np.arange(image_count)
    with warnings.catch_warnings():
        # Consolidated metadata is an extension of the specification that xarray looks for and otherwise warns about.
        warnings.simplefilter("ignore")
        for spec in arrays:
            zarr.consolidate_metadata(store, path=spec.group)
        zarr.consolidate_metadata(store)
    return {f"{layout.ARRAYS}/{key}": value.to_bytes() for key, value in content.items()}


def encode_shard(spec: ArraySpec, record: RunRecord, maps: np.ndarray, each: Each = map) -> bytes:
    """The bytes of a unit's shard; maps (images of the unit, *stored shape)."""
    return shard_bytes(maps, images_per_chunk(_image_bytes(spec), record.shard_length), record.shard_length, each)


@lru_cache(maxsize=256)
def images_per_chunk(image_bytes: int, shard_length: int) -> int:
    """How many images share an inner chunk: the largest divisor of the shard within BUNDLE_BYTES."""
    fitting = max(1, BUNDLE_BYTES // image_bytes)
    return max(n for n in range(1, min(fitting, shard_length) + 1) if shard_length % n == 0)


def _create_array(group: Any, spec: ArraySpec, image_count: int, shard_length: int) -> Any:
    from zarr.codecs import BloscCodec, Crc32cCodec

    return group.create_array(
        layout.ARRAY,
        shape=(image_count, *spec.shape),
        chunks=(images_per_chunk(_image_bytes(spec), shard_length), *spec.shape),
        shards=(shard_length, *spec.shape),
        dtype="float32",
        fill_value=float("nan"),
        compressors=[BloscCodec(**COMPRESSION, shuffle="bitshuffle", typesize=4), Crc32cCodec()],
        dimension_names=("image", *spec.dims),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"method": spec.expression},
        config={"write_empty_chunks": True},  # an all-NaN chunk is a failed image, not a missing one
    )


def _image_bytes(spec: ArraySpec) -> int:
    return 4 * int(np.prod(spec.shape, dtype=np.int64))
