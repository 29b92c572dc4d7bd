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


def exact_gini(sizes):
    """From its definition by ranks, in float64.  sizes (n, length)"""
    ordered = np.sort(sizes.double().numpy(), axis=1)
    count = ordered.shape[1]
    return ((2 * np.arange(1, count + 1) - count - 1) * ordered).sum(1) / ordered.sum(1) / count


def some_sizes(count=5, length=4097):
    """Maps of many kinds, (kinds x count, length): what can be near one another, equal, zero or far apart, is."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, length, generator=generator)
    half = torch.rand(count, length, generator=generator) < 0.5
    kinds = [
        *(normal, normal * half, normal**4, (3 * normal).exp(), 1e-41 * normal, 1e30 * normal),
        *(1 + 1e-3 * normal, 1 + 1e-6 * normal, (1 + 3e-4 * normal) * half),
        *(normal[:, :49].repeat(1, 84)[:, :length], torch.full_like(normal, 0.3), torch.zeros_like(normal)),
    ]
    kinds[-1][:, 7] = 0.1  # one has it all
    return torch.cat(kinds).abs()


def shares_of(sizes):
    return sizes / total(sizes)[:, None]


def test_rows_ordered_by_one_sort_are_those_ordered_one_by_one():
    """To 2**-22 of 1 + u, and its own rounding's 2**-24; u is the share times 2**13, the first power that is not below the length."""
    shares = shares_of(some_sizes()).repeat(2, 1)  # more rows than one sort takes
    expected, found = shares.sort(1).values, ordered_at_once(shares)
    assert ((found - expected).abs() <= (2**-22 + 2**-24) * (2**-13 + expected)).all()
    assert ordered_at_once(shares[:0]).shape == (0, 4097)


@pytest.mark.parametrize("ordered", ["by numpy", "at once"])
def test_gini_of_maps_of_many_kinds(ordered, monkeypatch):
    """As good on a GPU as on a CPU, where numbers are ordered exactly."""
    if ordered == "at once":
        monkeypatch.setattr(statistics_module, "_ordered", ordered_at_once)
    sizes = some_sizes()
    # On a GPU places alone may move it by 6e-7; sums of float32 do by some 1e-7.
    np.testing.assert_allclose(statistics(sizes)["gini"], exact_gini(sizes), rtol=0, atol=1e-6)


def test_what_is_no_number_in_a_row_changes_no_other():
    """Where all rows are ordered by one sort; and its own Gini coefficient is none, as an empty map's."""
    shares = shares_of(some_sizes(2, 301))
    spoilt = shares.clone()
    spoilt[1, :3] = torch.tensor([torch.inf, -torch.nan, torch.nan])
    spoilt[4] = torch.nan
    well = [row for row in range(len(shares)) if row not in (1, 4)]
    assert torch.equal(ordered_at_once(spoilt)[well], ordered_at_once(shares)[well])


@pytest.mark.parametrize("ordered", ["by numpy", "at once"])
def test_a_map_that_is_empty_or_not_finite_has_no_gini(ordered, monkeypatch):
    if ordered == "at once":
        monkeypatch.setattr(statistics_module, "_ordered", ordered_at_once)
    maps = torch.ones(5, 6)
    maps[0], maps[1, 2], maps[2, 3], maps[3] = 0, torch.nan, torch.inf, 2e38
    assert np.isnan(statistics(maps)["gini"]).tolist() == [True, True, True, True, False]


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
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16, 33, 70])
@pytest.mark.parametrize("ordered", ["by numpy", "at once"])
def test_numbers_do_not_depend_on_batch_mates_nor_on_how_many_are_taken_at_once(shape, count, ordered, monkeypatch):
    """To the bit. One at a time is how a CPU works and many how a GPU does: both here on the CPU."""
    if ordered == "at once":
        monkeypatch.setattr(statistics_module, "_ordered", ordered_at_once)
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
