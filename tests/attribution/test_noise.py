"""Random numbers belong to (seed, key, draw): not to the batch, the order, or the global generator."""

import torch

from attribution.noise import Draws

LIKE = torch.zeros(3, 2, 40, 40, dtype=torch.float64)


def test_numbers_follow_the_image():
    draws, other = Draws(1, ("a", "b", "c")), Draws(1, ("c", "a"))
    assert torch.equal(draws.normal(LIKE, 4)[[2, 0]], other.normal(LIKE[:2], 4))
    assert torch.equal(draws.uniform(4, LIKE)[[2, 0]], other.uniform(4, LIKE))
    assert torch.equal(draws.integers(100, 4)[[2, 0]], other.integers(100, 4))
    assert torch.equal(draws.rows(torch.tensor([2, 0])).normal(LIKE[:2], 4), other.normal(LIKE[:2], 4))


def test_different_identities_give_different_numbers():
    draws = Draws(1, ("a", "b", "c"))
    numbers = [
        draws.normal(LIKE, 0),
        draws.normal(LIKE, 1),
        draws.within(0).normal(LIKE, 0),
        Draws(2, draws.keys).normal(LIKE, 0),
        draws.normal(LIKE, 0).roll(1, 0),
    ]
    for i, one in enumerate(numbers):
        for other in numbers[:i]:
            # independent normal numbers: the correlation of 9,600 pairs has standard deviation 0.01
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.06


def test_normal_numbers_are_normal():
    numbers = Draws(0, ("a",)).normal(torch.zeros(1, 3, 200, 200, dtype=torch.float64), 0)
    # 120,000 numbers: standard errors .003 of the mean and .002 of the deviation
    assert abs(numbers.mean()) < 0.015
    assert abs(numbers.std() - 1) < 0.01


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    draws = Draws(0, ("a", "b", "c"))
    draws.normal(LIKE, 0), draws.uniform(0, LIKE), draws.integers(5, 0)
    assert torch.equal(torch.get_rng_state(), before)
