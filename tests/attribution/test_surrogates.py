"""A surrogate is its image's own to the bit, solves what it says, and stays finite where samples tell nothing."""

import numpy as np
import pytest
import torch

from attribution.noise import Draws
from attribution.surrogates import Surrogate


def fitted(regions, rows, samples=12, images=9, certain=1.0):
    """A surrogate of some of nine images with these many regions, from the samples that each has anyway."""
    draws = Draws(1, tuple(f"image {i}" for i in range(images))).rows(rows)
    counts = torch.tensor([regions[i % len(regions)] for i in range(images)])[rows]
    surrogate = Surrogate(counts)
    for sample in range(samples):
        score = draws.uniform(sample, torch.zeros(()))
        surrogate.add(draws.table(counts, sample) < 0.5, score, certain if sample < 2 else 1.0)
    return surrogate


@pytest.mark.parametrize("regions", [(1,), (4,), (7,), (49,), (5, 6, 17)])
def test_an_image_s_coefficients_are_its_own_to_the_bit(regions):
    for solve, certain in ((Surrogate.least_squares, 1e6), (lambda surrogate: surrogate.lasso(0.02), 1.0)):
        together = solve(fitted(regions, torch.arange(9), certain=certain))
        for i in range(0, 9, 2):
            alone = solve(fitted(regions, torch.tensor([i]), certain=certain))
            assert torch.equal(together[i, : alone.shape[1]], alone[0])


@pytest.mark.parametrize(("regions", "samples"), [(3, 40), (30, 12)])
def test_least_squares_are_numpy_s_and_of_least_norm(regions, samples):
    generator = np.random.default_rng(0)
    z, y, weight = generator.random((samples, regions)) < 0.5, generator.random(samples), generator.random(samples)
    surrogate = Surrogate(torch.tensor([regions]))
    for row, score, w in zip(z, y, weight, strict=True):
        surrogate.add(torch.tensor(row)[None], torch.tensor([score]), w)
    centred = z - weight @ z / weight.sum(), y - weight @ y / weight.sum()
    root = np.sqrt(weight)
    expected = np.linalg.lstsq(root[:, None] * centred[0], root * centred[1], rcond=1e-6)[0]
    np.testing.assert_allclose(surrogate.least_squares()[0].numpy(), expected, rtol=1e-7, atol=1e-9)


def test_a_price_of_nothing_is_least_squares_and_a_high_one_leaves_nothing():
    surrogate = fitted((4,), torch.arange(9), samples=40)
    torch.testing.assert_close(surrogate.lasso(0.0), surrogate.least_squares(), rtol=1e-4, atol=1e-6)
    assert surrogate.lasso(10.0).count_nonzero() == 0


def test_regions_that_never_change_get_nothing():
    surrogate = Surrogate(torch.tensor([2]))
    for sample in range(4):
        surrogate.add(torch.tensor([[True, sample % 2 == 0]]), torch.tensor([float(sample)]), 1.0)
    for coefficients in (surrogate.least_squares(), surrogate.lasso(0.0)):
        assert coefficients[0, 0].abs() < 1e-12
        assert coefficients[0, 1] == pytest.approx(-1.0)  # (0 + 2) / 2 - (1 + 3) / 2
