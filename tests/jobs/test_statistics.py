"""Promise: each number of the summary is what its definition says, for one map at a time, before rounding."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import statistics as statistics_module
from jobs.statistics import COLUMNS, ordered_at_once, round_mantissa, statistics, total
from storage.tensors import round_mantissa as round_in_numpy


def test_numbers_of_a_map_worked_out_by_hand():
    one = torch.tensor([[[0.0, 1.0], [-3.0, 0.0]]])
    found = {name: float(values[0]) for name, values in statistics(one[None]).items()}
    assert found["attribution_sum"] == -2
    assert (found["abs_sum"], found["positive_sum"], found["negative_sum"], found["abs_max"]) == (4, 1, -3, 3)
    # shares 0, 0, 1/4, 3/4
    assert found["entropy"] == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    # mean absolute difference of all pairs over twice the mean: (3*2*... by hand) = 0.625
    assert found["gini"] == pytest.approx(0.625)
    assert found["centre_y"] == pytest.approx(0.25 * 0.25 + 0.75 * 0.75)
    assert found["centre_x"] == pytest.approx(0.25 * 0.75 + 0.75 * 0.25)


def test_gini_is_the_mean_difference_of_pairs():
    values = np.abs(np.random.default_rng(0).normal(size=(3, 4, 5)))
    flat = values.ravel()
    expected = np.abs(flat[:, None] - flat[None, :]).mean() / (2 * flat.mean())
    found = statistics(torch.tensor(values)[None])["gini"][0]
    assert found == pytest.approx(expected, abs=1e-6)  # float32


def test_all_rows_are_ordered_by_one_sort():
    """To the bit what a sort of each row gives, whatever stands in it."""
    rows = torch.randn(5, 301, generator=torch.Generator().manual_seed(0)).abs()
    rows[1, :3] = torch.tensor([torch.inf, torch.nan, 0.0])
    rows[2] = 1e-40  # subnormal
    rows[3, ::2] = torch.inf
    rows[4, 5:] *= 1e38
    torch.testing.assert_close(ordered_at_once(rows), rows.sort(1).values, rtol=0, atol=0, equal_nan=True)
    assert ordered_at_once(rows[:0]).shape == (0, 301)


def test_a_map_without_axes_has_no_centre_and_an_empty_one_no_shares():
    flat = statistics(torch.ones(2, 7))
    assert np.isnan(flat["centre_y"]).all()
    empty = statistics(torch.zeros(1, 3, 4, 4))
    assert np.isnan(empty["gini"]).all()
    assert empty["abs_sum"][0] == 0


def test_what_is_not_finite_is_counted():
    maps = torch.zeros(2, 3, 2, 2)
    maps[1, 0, 0, 0], maps[1, 2, 1, 1] = torch.nan, -torch.inf
    assert statistics(maps)["nonfinite_count"].tolist() == [0, 2]


def test_no_image_gives_no_row():
    assert {name: len(values) for name, values in statistics(torch.empty(0, 3, 2, 2)).items()} == dict.fromkeys(
        COLUMNS, 0
    )


@pytest.mark.parametrize("shape", [(3, 33, 31), (2, 7, 7), (5,), (4, 9), (1, 64, 64)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16, 33])
def test_numbers_do_not_depend_on_batch_mates_nor_on_how_many_are_taken_at_once(shape, count, monkeypatch):
    """To the bit. One at a time is how a CPU works and many how a GPU does: both here on the CPU."""
    maps = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    alone = [statistics(maps[i : i + 1]) for i in range(count)]
    for at_once in (1, 2, 7, 100):
        monkeypatch.setattr(statistics_module, "_at_once", lambda _, n=at_once: n)
        for name, values in statistics(maps).items():
            assert values.tobytes() == np.concatenate([one[name] for one in alone]).tobytes(), name
        for keep_bits in (1, 10):
            assert torch.equal(
                round_mantissa(maps, keep_bits), torch.cat([round_mantissa(one[None], keep_bits) for one in maps])
            )


def test_a_sum_is_one_fixed_tree_of_pairs():
    """Written from its definition: the upper half onto the lower, from the largest power of two below the length."""

    def tree(values):
        while len(values) > 1:
            half = 2 ** int(np.ceil(np.log2(len(values)) - 1))
            values = [
                np.float32(low + values[half + i]) if half + i < len(values) else low
                for i, low in enumerate(values[:half])
            ]
        return values[0]

    for length in (1, 2, 3, 5, 8, 13, 64, 150):
        values = np.random.default_rng(length).normal(size=(4, length)).astype(np.float32)
        expected = [tree(list(row)) for row in values]
        assert total(torch.from_numpy(values)).tolist() == expected
        assert total(torch.from_numpy(values.T.copy()), 0).tolist() == expected


def test_sums_of_large_maps_are_good_to_float32():
    maps = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)).exp()
    found, exact = statistics(maps), maps.double().flatten(1)
    np.testing.assert_allclose(found["abs_sum"], exact.sum(1), rtol=1e-6)
    shares = exact / exact.sum(1, keepdim=True)
    np.testing.assert_allclose(found["entropy"], torch.special.entr(shares).sum(1), rtol=1e-6)


def test_the_layout_in_memory_changes_no_number():
    maps = torch.randn(3, 4, 6, 5)
    channels_last = maps.contiguous(memory_format=torch.channels_last)
    for name, values in statistics(maps).items():
        assert values.tobytes() == statistics(channels_last)[name].tobytes()
    assert torch.equal(round_mantissa(channels_last, 5), round_mantissa(maps, 5))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 23), st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_rounding_is_the_stores_to_the_bit(keep_bits, values):
    array = np.asarray(values, np.float32)
    ours = round_mantissa(torch.from_numpy(array.copy()), keep_bits).numpy()
    theirs = round_in_numpy(array, keep_bits)
    nan = np.isnan(array)
    assert np.array_equal(np.isnan(ours), nan)
    assert ours[~nan].tobytes() == theirs[~nan].tobytes()
