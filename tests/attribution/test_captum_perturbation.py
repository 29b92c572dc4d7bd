"""Parity with Captum 0.9 in float64: the methods that replace regions, with Captum given the samples that ours drew."""

from itertools import count

import pytest
import torch

from attribution.layer import Layer
from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.kernel_shap import KernelShap, coalition_sizes
from attribution.methods.lime import Lime
from attribution.methods.shapley_value_sampling import ShapleyValueSampling
from attribution.methods.shapley_values import ShapleyValues
from attribution.noise import Draws
from attribution.site import Input, Score, neuron

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytest.importorskip("sklearn", reason="Captum's Lime and KernelShap need scikit-learn")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

DRAWS = Draws(5, tuple("abcd"))
CELLS = (torch.arange(12).reshape(12, 1) // 6 * 3 + torch.arange(10) // 4).reshape(1, 1, 12, 10)  # 2 x 3 cells
SIX = torch.full((4,), 6)
UNIT = (1, 2, 3)


@pytest.fixture
def site(model, target):
    return Input(Score(model=model, target=target))


def close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs.detach().double(), **(tolerance or {"rtol": 0, "atol": 1e-12}))


def test_feature_ablation(model, x, baseline, target, site):
    theirs = captum.FeatureAblation(model).attribute(x, baseline, target=target, feature_mask=CELLS)
    close(FeatureAblation().attribute(site, x, baseline, CELLS), theirs)
    theirs = captum.NeuronFeatureAblation(model, model.block).attribute(x, UNIT, baseline, feature_mask=CELLS)
    close(FeatureAblation().attribute(Input(neuron(model, model.block, UNIT)), x, baseline, CELLS), theirs)


def test_feature_ablation_at_a_layer(model, x, target):
    """Captum's baseline lives in the layer, as ours does at the tail."""
    layer = Layer(Score(model=model, target=target), model.block)
    mask = (torch.arange(6 * 6 * 5) % 7).reshape(1, 6, 6, 5)
    theirs = captum.LayerFeatureAblation(model, model.block).attribute(x, 0.3, target=target, layer_mask=mask)
    activation = layer.features(x)
    ours = FeatureAblation().attribute(layer.tail(x), activation, torch.full_like(activation[:1], 0.3), mask)
    close(ours, theirs)


def test_shapley_values(model, x, baseline, target, site):
    theirs = captum.ShapleyValues(model).attribute(x[:1], baseline[:1], target=target[:1], feature_mask=CELLS // 3)
    ours = ShapleyValues().attribute(site, x, baseline, CELLS // 3)[:1]
    close(ours, theirs, rtol=0, atol=1e-7)  # Captum adds them up in float32


def test_shapley_value_sampling(model, x, baseline, target, site):
    """Both are unbiased: means over many orders stand about the exact values by their standard error."""
    exact = ShapleyValues().attribute(site, x, baseline, CELLS)
    sampling = ShapleyValueSampling(n_samples=20)
    ours = torch.stack([sampling.attribute(site, x, baseline, CELLS, Draws(s, DRAWS.keys)) for s in range(6)])
    torch.manual_seed(0)
    theirs = captum.ShapleyValueSampling(model).attribute(x, baseline, target=target, feature_mask=CELLS, n_samples=60)
    error = ours.std(0) / 6**0.5
    assert ((ours.mean(0) - exact).abs() <= 6 * error + 1e-9).all()  # 24 numbers, t with 5 degrees of freedom
    assert ((theirs - exact).abs() <= 10 * error + 1e-6).all()  # from half as many orders


def in_captum_s_order(samples):
    """A perturbation function that gives one image after the other each of its samples.  samples (n, N, regions)"""
    turn = count()

    def perturb(_image, **_kwargs):
        image, sample = divmod(next(turn), len(samples))
        return samples[sample, image][None].long()

    return perturb


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_lime(model, x, baseline, target, site, distance):
    from captum._utils.models.linear_model import SkLearnLasso
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    width = {"cosine": 0.8, "euclidean": 12.0}[distance]
    ours = Lime(n_samples=15, alpha=0.005, kernel_width=width, distance=distance)
    kept = torch.stack([DRAWS.table(SIX, sample) < 0.5 for sample in range(15)])
    theirs = captum.Lime(
        model,
        interpretable_model=SkLearnLasso(alpha=0.005, tol=1e-10),
        similarity_func=get_exp_kernel_similarity_function(distance, width),
        perturb_func=in_captum_s_order(kept),
    ).attribute(x, baseline, target=target, feature_mask=CELLS, n_samples=15)
    assert (theirs == 0).any() and (theirs != 0).any()
    close(ours.attribute(site, x, baseline, CELLS, DRAWS), theirs, rtol=0, atol=1e-6)  # Captum fits in float32


def test_kernel_shap(model, x, baseline, target, site):
    """Captum's KernelShap is its Lime with these samples, weights and model."""
    from captum._utils.models.linear_model import SkLearnLinearRegression

    drawn = [torch.ones(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)]
    for sample in range(18):
        rank = DRAWS.table(SIX, sample).argsort(1).argsort(1)
        drawn.append(rank < coalition_sizes(SIX, DRAWS.uniform(sample, x))[:, None])
    theirs = captum.Lime(
        model,
        interpretable_model=SkLearnLinearRegression(),
        similarity_func=lambda _x, _near, kept, **_: 1e6 if kept.sum() in (0, 6) else 1.0,
        perturb_func=in_captum_s_order(torch.stack(drawn)),
    ).attribute(x, baseline, target=target, feature_mask=CELLS, n_samples=20)
    ours = KernelShap(n_samples=20).attribute(site, x, baseline, CELLS, DRAWS)
    close(ours, theirs, rtol=0, atol=2e-6)  # Captum fits in float32
