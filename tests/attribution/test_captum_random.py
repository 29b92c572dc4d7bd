"""Captum's random methods: their means against closed forms, and randomness that belongs to rows, not to batches."""

import random

import numpy as np
import pytest
import torch

import attribution
from attribution import (
    GradientShap,
    InputBaselineXGradient,
    IntegratedGradients,
    LayerGradientShap,
    NeuronGradientShap,
    NoiseTunnel,
    ProductBaselines,
    Saliency,
)

SAMPLES = 4000


def within(sampled, exact, spread):
    """Five standard errors: a false alarm once in a million."""
    assert bool(((sampled - exact).abs() <= 5 * spread / SAMPLES**0.5 + 1e-9).all())


def cubes(x):
    """Gradient 3 x^2."""
    return (x**3).sum(1)


@pytest.fixture
def numbers():
    return torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5]], dtype=torch.float64)


def test_smoothgrad_and_vargrad(numbers):
    noise = {"nt_samples": SAMPLES, "stdevs": 0.5, "seed": 1, "abs": False}
    tunnel = NoiseTunnel(Saliency(cubes))
    mean, variance = 3 * numbers**2 + 3 * 0.25, 9 * (4 * numbers**2 * 0.25 + 2 * 0.25**2)
    within(tunnel.attribute(numbers, **noise), mean, variance.sqrt())
    within(tunnel.attribute(numbers, "vargrad", **noise), variance, 4 * variance)
    squares = tunnel.attribute(numbers, nt_type="smoothgrad_sq", **noise)
    smooth, var = (tunnel.attribute(numbers, kind, **noise) for kind in ("smoothgrad", "vargrad"))
    torch.testing.assert_close(squares, var + smooth**2)


def test_vargrad_is_never_negative(numbers):
    """Captum's mean of squares less the square of the mean is, for a third of the entries (facts 2.2, row 16)."""
    linear = NoiseTunnel(Saliency(lambda x: (1000 * x + 1e-4 * x**2).sum(1)))
    assert bool((linear.attribute(numbers.float(), "vargrad", nt_samples=50, stdevs=0.1) >= 0).all())


def test_one_spread_an_input(numbers):
    tunnel = NoiseTunnel(Saliency(lambda x, y: cubes(x) + cubes(y)))
    inputs = (numbers, 2 * numbers)
    first, second = tunnel.attribute(inputs, stdevs=(0, 0.5), nt_samples=SAMPLES, seed=3)
    torch.testing.assert_close(first, 3 * numbers**2)  # a whole number serves too
    exact, spread = 12 * numbers**2 + 0.75, (9 * (16 * numbers**2 * 0.25 + 0.125)).sqrt()
    within(second, exact, spread)
    with pytest.raises(AssertionError, match="one for each"):
        tunnel.attribute(inputs, stdevs=(0.1,))


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
def test_samples_do_not_depend_on_their_number_in_a_call(numbers, batch):
    tunnel = NoiseTunnel(IntegratedGradients(cubes))
    settings = {"nt_samples": 7, "stdevs": 0.3, "n_steps": 2, "return_convergence_delta": True, "seed": 5}
    whole, deltas = tunnel.attribute(numbers, "vargrad", **settings)
    parts, own_deltas = tunnel.attribute(numbers, "vargrad", nt_samples_batch_size=batch, **settings)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(own_deltas, deltas)
    assert deltas.shape == (14,)  # the samples of a row stand together


def test_gradient_shap_is_the_mean_of_integrated_gradients(numbers):
    baselines = torch.tensor([[0.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
    each = [IntegratedGradients(cubes).attribute(numbers, row[None].expand_as(numbers)) for row in baselines]
    exact = torch.stack(each).mean(0)
    sampled, deltas = GradientShap(cubes).attribute(
        numbers, lambda: baselines, n_samples=SAMPLES, return_convergence_delta=True, seed=1
    )
    spread = 12.0  # bounds |x - b| 3 x^2
    within(sampled, exact, spread)
    assert deltas.shape == (2 * SAMPLES,)
    ends = cubes(numbers) - torch.stack([cubes(row[None].expand_as(numbers)) for row in baselines]).mean(0)
    within(sampled.sum(1) - deltas.reshape(2, -1).mean(1), ends, 4.0)


def test_gradient_shap_of_a_linear_model_is_exact(model, x, baseline):
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, 3).double()).eval()
    exact = IntegratedGradients(linear).attribute(x, baseline[:1], target=2)
    torch.testing.assert_close(GradientShap(linear).attribute(x, baseline[:1], target=2), exact)
    torch.testing.assert_close(InputBaselineXGradient(linear).attribute(x, baseline[:1], target=2), exact)
    local = GradientShap(linear, multiply_by_inputs=False).attribute(x, baseline[:1], target=2, stdevs=0.1)
    torch.testing.assert_close(local, linear[1].weight[2].detach().reshape(1, 3, 12, 10).expand_as(x))
    layered = LayerGradientShap(linear, linear[0]).attribute(x, baseline[:1], target=[2, 2, 2, 2])
    torch.testing.assert_close(layered, exact.flatten(1))
    neuron = NeuronGradientShap(linear, linear[1]).attribute(x, 2, baseline[:1])
    torch.testing.assert_close(neuron, exact)


RANDOM_CALLS = {
    "NoiseTunnel": lambda model, x, **own: NoiseTunnel(Saliency(model)).attribute(x, target=1, **own),
    "GradientShap": lambda model, x, **own: GradientShap(model).attribute(
        x, torch.zeros(2, 3, 12, 10), target=1, **own
    ),
    "InputBaselineXGradient": lambda model, x, **own: InputBaselineXGradient(model).attribute(x, target=1, **own),
}


def other_generators():
    return np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002  # Captum draws from the global one


@pytest.mark.parametrize("name", sorted(RANDOM_CALLS))
def test_whose_randomness(model, x, name):
    """torch.manual_seed rules, numpy's and Python's generators are left alone, and `seed=` needs none of them."""
    call = RANDOM_CALLS[name]
    torch.manual_seed(7)
    others = other_generators()
    first = call(model, x)
    after = torch.get_rng_state()
    assert others == other_generators()
    assert not torch.equal(call(model, x), first)
    torch.manual_seed(7)
    assert torch.equal(call(model, x), first)
    seeded = call(model, x, seed=3)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(call(model, x, seed=3), seeded) and not torch.equal(call(model, x, seed=4), seeded)
    torch.testing.assert_close(call(model, x[:2], seed=3), seeded[:2], rtol=1e-12, atol=1e-12)


def test_rows_take_their_seeds_in_order(model, x):
    """One number of the generator a row: rows asked one after the other get what they get together."""
    point = InputBaselineXGradient(model)
    torch.manual_seed(7)
    together = point.attribute(x, target=1)
    torch.manual_seed(7)
    alone = torch.cat([point.attribute(row[None], target=1) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


def test_product_baselines():
    drawn = ProductBaselines([[1, 2], [3]])()
    assert drawn[0] in (1, 2) and drawn[1] == 3
    named = ProductBaselines({"a": [1], ("b", "c"): [(2, 3), (4, 5)]})
    assert {tuple(named().items()) for _ in range(60)} == {
        (("a", 1), ("b", 2), ("c", 3)),
        (("a", 1), ("b", 4), ("c", 5)),
    }
    assert set(attribution.__all__) >= {"ProductBaselines"}
