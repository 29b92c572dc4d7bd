"""A map is the image's own: whatever the shard's length, the order of shards, and the other images of its shard.

Runs with one and two workers, and resumed ones, are compared to the bit in test_ray.py.
"""

import numpy as np
import pytest
from test_shard import EXPRESSIONS, inquiry, results

from jobs.decoding import ShardImages
from jobs.shard import attribute_shard

COUNT = 11
STOCHASTIC = ("gradient_shap(n_samples=2, stdev=0.2)", 'saliency(noise="vargrad(samples=2)")')


def images(rows):
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    rows = np.asarray(rows)
    return ShardImages(
        rows=rows,
        keys=tuple(f"key{row}" for row in rows),
        labels=rows % 5,
        pixels=pixels[rows],
        failures=(),
        seconds=0.0,
    )


def maps(shards, **changes):
    """Each question's maps by row number, from shards computed one after the other."""
    asked = inquiry(*EXPRESSIONS, *STOCHASTIC, **changes)
    found = {}
    for rows in shards:
        for result in results(attribute_shard(asked, images(rows))):
            found |= {(result.group, int(row)): one for row, one in zip(result.rows, result.maps, strict=True)}
    return found


def cut(length):
    return [range(start, min(start + length, COUNT)) for start in range(0, COUNT, length)]


def test_the_order_of_shards_changes_no_bit():
    in_order = maps(cut(4))
    for order in ([2, 0, 1], [1, 2, 0]):
        shuffled = maps([cut(4)[i] for i in order])
        assert all(np.array_equal(shuffled[key], in_order[key]) for key in in_order)


def test_neighbours_change_no_bit_where_each_image_has_its_own_pass():
    whole, some = maps([range(COUNT)], rows_per_pass=1), maps([[0, 2, 3]], rows_per_pass=1)
    assert all(np.array_equal(one, whole[key]) for key, one in some.items())


@pytest.mark.parametrize("length", [1, 7, COUNT])
def test_another_shard_length_moves_maps_by_rounding_only(length):
    """Stated tolerance: 1e-5 of a map's largest value, float32 sums in another order; a flipped rectifier would show."""
    expected, other = maps(cut(4)), maps(cut(length))
    assert expected.keys() == other.keys()
    for key, one in expected.items():
        np.testing.assert_allclose(other[key], one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_passes_of_another_size_move_maps_by_rounding_only():
    expected = maps([range(COUNT)])
    for rows_per_pass in (1, 3):
        other = maps([range(COUNT)], rows_per_pass=rows_per_pass)
        for key, one in expected.items():
            np.testing.assert_allclose(other[key], one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_the_seed_is_what_makes_random_maps_differ():
    first, second = maps([range(2)], seed=0), maps([range(2)], seed=1)
    assert not np.array_equal(first["g4", 0], second["g4", 0])
    assert np.array_equal(first["g0", 0], second["g0", 0])
