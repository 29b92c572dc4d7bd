"""Maps are stored to the promised precision, one shard a unit, with a checksum on every inner chunk."""

import json
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from storage.records import ArraySpec
from storage.shards import shard_bytes
from storage.tensors import images_per_chunk, reduced, round_mantissa, stored
from tests.storage.runs import CAM, GRADIENT, make_run, write_unit

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded_by_hand(value, keep_bits):
    """To nearest, ties to even, on the exact value: written from the definition."""
    if value == 0 or not np.isfinite(value):
        return value
    exact = Fraction(float(value))
    exponent = max(int(np.floor(np.log2(abs(float(value))))), -126)
    if abs(exact) < Fraction(2) ** exponent and exponent > -126:
        exponent -= 1
    step = Fraction(2) ** (exponent - keep_bits)
    return np.float32(float(round(exact / step) * step))  # Fraction rounds ties to even


@given(st.lists(finite, min_size=1, max_size=30), st.integers(1, 23))
def test_rounding_is_to_nearest_even(values, keep_bits):
    array = np.array(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = np.array([rounded_by_hand(value, keep_bits) for value in array], dtype=np.float32)
    np.testing.assert_array_equal(round_mantissa(array, keep_bits), expected)


@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.integers(1, 23))
def test_rounding_twice_is_rounding_once_and_keeps_what_is_not_finite(values, keep_bits):
    once = round_mantissa(np.array(values, dtype=np.float32), keep_bits)
    np.testing.assert_array_equal(round_mantissa(once, keep_bits), once)
    for value, result in zip(values, once, strict=True):
        if not np.isfinite(np.float32(value)):
            np.testing.assert_array_equal(np.float32(value), result)


def test_ten_bits_keep_a_relative_error_under_2_to_the_minus_11_and_23_are_exact():
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    assert (np.abs(round_mantissa(values, 10) / values - 1) <= 2.0**-11).all()
    assert round_mantissa(values, 23) is values


def test_rounding_does_not_touch_what_it_is_given():
    values = np.full(4, 1.2345678, np.float32)
    values.flags.writeable = False
    assert round_mantissa(values, 3)[0] == 1.25


@given(st.integers(1, 10**6), st.integers(1, 256))
def test_bundles_divide_the_shard_and_stay_small(image_bytes, shard_length):
    count = images_per_chunk(image_bytes, shard_length)
    assert shard_length % count == 0
    assert count == 1 or count * image_bytes <= 64 * 1024


def test_an_input_map_has_an_inner_chunk_of_its_own_and_small_maps_share_one():
    assert images_per_chunk(3 * 224 * 224 * 4, 64) == 1
    assert images_per_chunk(7 * 7 * 4, 64) == 64


@pytest.mark.parametrize(
    ("count", "shape", "per_chunk"), [(6, (3, 20, 10), 1), (4, (3, 20, 10), 1), (5, (7, 7), 3), (6, (5,), 6)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_shard_is_what_zarr_itself_would_write_to_the_byte(count, shape, per_chunk, threads):
    """A whole shard, the shorter last one of a run, and a chunk of several images that is only partly filled."""
    maps = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    maps[0], maps[1].flat[0] = np.nan, np.inf
    content = {}
    array = zarr.create_array(
        MemoryStore(content),
        shape=(count, *shape),
        chunks=(per_chunk, *shape),
        shards=(6, *shape),
        dtype="float32",
        fill_value=float("nan"),
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[:] = maps
    [expected] = [value.to_bytes() for key, value in content.items() if not key.endswith("zarr.json")]
    with ThreadPoolExecutor(threads) as pool:
        assert shard_bytes(maps, per_chunk, 6, pool.map) == expected
    assert shard_bytes(maps, per_chunk, 6) == expected


def test_maps_that_do_not_lie_in_one_piece_are_stored_as_they_are_indexed():
    maps = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    assert shard_bytes(maps.transpose(0, 3, 1, 2), 2, 4) == shard_bytes(maps.transpose(0, 3, 1, 2).copy(), 2, 4)


def test_channel_sum_knows_channels_by_name():
    layer = ArraySpec(group="ig", expression="ig", dims=("ig_c", "ig_y", "ig_x"), shape=(5, 2, 2))
    tokens = ArraySpec(group="ig", expression="ig", dims=("ig_t", "ig_c"), shape=(4, 5))
    flat = ArraySpec(group="ig", expression="ig", dims=("ig_c",), shape=(5,))
    assert [stored(spec, "channel_sum").dims for spec in (layer, tokens, flat)] == [
        ("ig_y", "ig_x"),
        ("ig_t",),
        ("ig_c",),
    ]
    maps = np.ones((3, 4, 5), np.float32)
    np.testing.assert_array_equal(reduced(maps, tokens, "channel_sum"), np.full((3, 4), 5, np.float32))
    assert reduced(maps, tokens, "full") is maps


def test_the_form_on_disk(tmp_path):
    run = make_run(tmp_path / "run")
    write_unit(run, 0)
    write_unit(run, 2)
    folder = tmp_path / "run/attributions.zarr/gradient_shap/attribution"
    assert sorted(path.name for path in folder.iterdir()) == ["c.0.0.0.0", "c.2.0.0.0", "zarr.json"]
    metadata = json.loads((folder / "zarr.json").read_text())
    [sharding] = metadata["codecs"]
    assert metadata["fill_value"] == "NaN"
    assert metadata["dimension_names"] == ["image", "channel", "y", "x"]
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [4, 3, 6, 5]
    codecs = {codec["name"]: codec.get("configuration") for codec in sharding["configuration"]["codecs"]}
    assert list(codecs) == ["bytes", "blosc", "crc32c"]
    assert (codecs["blosc"]["cname"], codecs["blosc"]["shuffle"]) == ("lz4", "bitshuffle")


@pytest.mark.parametrize("spec", [GRADIENT, CAM])
def test_any_flipped_byte_of_a_shard_is_noticed_on_reading(tmp_path, spec):
    run = make_run(tmp_path / "run")
    write_unit(run, 0)
    path = next((tmp_path / f"run/attributions.zarr/{spec.group}/attribution").glob("c.0.*"))
    sound = path.read_bytes()
    for position in range(0, len(sound), max(1, len(sound) // 50)):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 0x40]) + sound[position + 1 :])
        with pytest.raises((ValueError, RuntimeError)):
            zarr.open_array(str(tmp_path / "run/attributions.zarr"), path=f"{spec.group}/attribution", mode="r")[:4]
    path.write_bytes(sound)
    assert not np.isnan(run.attributions(spec.group)[:4]).any()
