"""Captum's metrics give Captum's numbers for the same perturbations, and the right ones where Captum's fail."""

import pytest
import torch

from attribution import IntegratedGradients, Saliency, infidelity, infidelity_perturb_func_decorator, sensitivity_max
from attribution.captum_names.metrics import default_perturb_func

captum = pytest.importorskip("captum.metrics", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def shaken(inputs, size=0.1):
    """Different for every copy of a row, the same in every call."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    moved = tuple(
        part + size * torch.sin(7 * torch.arange(part.numel()).reshape(part.shape)).to(part) for part in parts
    )
    return moved if isinstance(inputs, tuple) else moved[0]


def noise(inputs):
    return inputs - shaken(inputs), shaken(inputs)


class Two(torch.nn.Module):
    """Two inputs, a gain for each row, several outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, y, gain, power):
        return self.model(x + y * y) * gain[:, None] ** power


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("most", [None, 1, 8, 100])
def test_infidelity(model, x, most, normalize):
    credit = IntegratedGradients(model, multiply_by_inputs=False).attribute(x, target=[0, 3, 1, 4], n_steps=5)
    settings = {"target": [0, 3, 1, 4], "n_perturb_samples": 5, "max_examples_per_batch": most, "normalize": normalize}
    ours = infidelity(model, noise, x, credit, **settings)
    torch.testing.assert_close(ours, captum.infidelity(model, noise, x, credit, **settings), **CLOSE)


@pytest.mark.parametrize("multiply_by_inputs", [True, False])
@pytest.mark.parametrize("baselines", [None, 0.2, "rows"])
def test_infidelity_of_tuples_with_the_decorator(model, x, baseline, baselines, multiply_by_inputs):
    inputs, two = (x, 0.5 * x.flip(0)), Two(model)
    start = None if baselines is None else (baseline, 0.1) if baselines == "rows" else (0.2, 0.3)

    def perturbed(inputs, *_baselines):
        return shaken(inputs)

    settings = {
        "baselines": start,
        "target": torch.tensor([0, 3, 1, 4]),
        "additional_forward_args": (torch.arange(1.0, 5).double(), 2),
        "n_perturb_samples": 3,
    }
    credit = tuple(torch.cos(part) for part in inputs)
    ours = infidelity(two, infidelity_perturb_func_decorator(multiply_by_inputs)(perturbed), inputs, credit, **settings)
    decorated = captum.infidelity_perturb_func_decorator(multiply_by_inputs)(perturbed)
    torch.testing.assert_close(ours, captum.infidelity(two, decorated, inputs, credit, **settings), **CLOSE)


def test_infidelity_of_a_linear_model_is_zero():
    linear = torch.nn.Linear(6, 2).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    credit = Saliency(linear).attribute(x, 1, abs=False)
    assert float(infidelity(linear, noise, x, credit, target=1).abs().max()) < 1e-25
    # Captum finds it from sums of squares, whose difference can be below zero
    scaled = infidelity(linear, noise, x, 1e6 * credit, target=1, normalize=True)
    assert bool((scaled >= 0).all()) and float(scaled.max()) < 1e-20


@pytest.mark.parametrize("order", ["fro", 1, 3.0, float("inf")])
@pytest.mark.parametrize("most", [None, 4, 9])
def test_sensitivity(model, x, most, order):
    settings = {"target": [0, 3, 1, 4], "norm_ord": order, "n_perturb_samples": 5, "max_examples_per_batch": most}
    asked = Saliency(model).attribute
    ours = sensitivity_max(asked, x, shaken, **settings)
    torch.testing.assert_close(ours, captum.sensitivity_max(asked, x, shaken, **settings), **CLOSE)
    ours = sensitivity_max(asked, x, lambda inputs: shaken(inputs, 0.1), **settings)
    torch.testing.assert_close(ours, sensitivity_max(asked, x, shaken, 0.1, **settings), **CLOSE)


def test_sensitivity_of_tuples_with_baselines(model, x, baseline):
    inputs, asked = (x, 0.5 * x.flip(0)), IntegratedGradients(Two(model)).attribute
    settings = {
        "baselines": (baseline, 0.2 * baseline),
        "target": [(0,), (3,), (1,), (4,)],
        "additional_forward_args": (torch.arange(1.0, 5).double(), 2),
        "n_steps": 3,
        "n_perturb_samples": 3,
    }
    ours = sensitivity_max(asked, inputs, shaken, **settings)
    torch.testing.assert_close(ours, captum.sensitivity_max(asked, inputs, shaken, **settings), **CLOSE)


def test_the_default_perturbation(model, x):
    (moved,) = default_perturb_func(x, 0.3)
    assert moved.dtype == x.dtype and 0.25 < float((moved - x).abs().max()) <= 0.3
    torch.manual_seed(1)
    first = sensitivity_max(Saliency(model).attribute, x, target=1)
    torch.manual_seed(1)
    assert torch.equal(sensitivity_max(Saliency(model).attribute, x, target=1), first)
    assert bool((sensitivity_max(lambda inputs: torch.zeros_like(inputs[0]), x) == 0).all())  # not 0 / 0


def test_errors(model, x):
    with pytest.raises(AssertionError, match="the shapes of the inputs"):
        infidelity(model, noise, x, x[:2], target=1)
    with pytest.raises(AssertionError, match="equal shapes"):
        infidelity(model, lambda inputs: (inputs[:1], inputs), x, x, target=1)
    with pytest.raises(AssertionError, match="n_perturb_samples=0"):
        sensitivity_max(Saliency(model).attribute, x, target=1, n_perturb_samples=0)
