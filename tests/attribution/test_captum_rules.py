"""DeepLIFT, DeepLIFT SHAP, Guided Backprop, Deconvolution and LRP equal Captum's where Captum's are right."""

import pytest
import torch
from torch import nn

from attribution.baselines import Baselines
from attribution.methods.deconvolution import Deconvolution
from attribution.methods.deep_lift import DeepLift
from attribution.methods.deep_lift_shap import DeepLiftShap
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.methods.lrp import LRP
from attribution.site import Input, Layer, Score, neuron

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
rules = pytest.importorskip("captum.attr._utils.lrp_rules", reason="as above")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]
UNIT = (1, 2, 3)
CLOSE = {"rtol": 0, "atol": 1e-9}


def chain() -> nn.Sequential:
    """Captum's sound area: one module for each call, no activation next to another, windows that do not overlap."""
    torch.manual_seed(3)
    first, second, third = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2), nn.Conv2d(6, 6, 1)
    norm, head = nn.BatchNorm2d(6), [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 5)]
    model = nn.Sequential(first, nn.ReLU(), second, norm, nn.Sigmoid(), nn.AvgPool2d(2), third, *head).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return model


def chain_without_biases() -> nn.Sequential:
    """The same for LRP: a ReLU behind every layer, so that nothing negative is ever shared."""
    torch.manual_seed(3)
    first, second, third = (
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.Conv2d(6, 6, 3, stride=2, bias=False),
        nn.Conv2d(6, 8, 1, bias=False),
    )
    for layer in (first, second, third):
        layer.weight.data *= 4  # so that scores are of order 1
    convolutions = first, nn.ReLU(), second, nn.ReLU(), nn.AvgPool2d(2), third, nn.ReLU(), nn.AvgPool2d(2)
    return (
        nn.Sequential(*convolutions, Flat(8, 8, 1, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False)).double().eval()
    )


class Flat(nn.Conv2d):
    """nn.Flatten is refused by Captum's LRP; a 1x1 convolution with a view behind it is not."""

    def forward(self, x):
        return super().forward(x).flatten(1)


@pytest.fixture
def sound():
    return chain()


@pytest.fixture
def score(sound, target):
    return Score(model=sound, target=target)


def test_deep_lift(sound, score, x, baseline, target):
    for reference in (baseline, baseline[:1], torch.zeros_like(x[:1])):
        theirs = captum.DeepLift(sound).attribute(x, reference, target=target)
        torch.testing.assert_close(DeepLift().attribute(Input(score), x, reference), theirs.detach(), **CLOSE)
    theirs = captum.DeepLift(sound, multiply_by_inputs=False).attribute(x, baseline, target=target)
    ours = DeepLift(multiply_by_inputs=False).attribute(Input(score), x, baseline)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


def test_deep_lift_at_a_layer_and_for_a_neuron(sound, score, x, baseline, target):
    theirs = captum.LayerDeepLift(sound, sound[2]).attribute(x, baseline, target=target)
    torch.testing.assert_close(DeepLift().attribute(Layer(score, sound[2]), x, baseline), theirs.detach(), **CLOSE)
    theirs = captum.NeuronDeepLift(sound, sound[3]).attribute(x, UNIT, baseline)
    ours = DeepLift().attribute(Input(neuron(sound, sound[3], UNIT)), x, baseline)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


def test_deep_lift_shap(sound, score, x, baseline, target):
    baselines = Baselines.of_rows(baseline[:3])
    theirs = captum.DeepLiftShap(sound).attribute(x, baseline[:3], target=target)
    torch.testing.assert_close(DeepLiftShap().attribute(Input(score), x, baselines), theirs.detach(), **CLOSE)
    theirs = captum.LayerDeepLiftShap(sound, sound[2]).attribute(x, baseline[:3], target=target)
    torch.testing.assert_close(DeepLiftShap().attribute(Layer(score, sound[2]), x, baselines), theirs.detach(), **CLOSE)


@pytest.mark.parametrize(
    ("ours", "theirs", "for_a_neuron"),
    [
        (GuidedBackprop(), captum.GuidedBackprop, captum.NeuronGuidedBackprop),
        (Deconvolution(), captum.Deconvolution, captum.NeuronDeconvolution),
    ],
    ids=["guided backprop", "deconvolution"],
)
def test_guided(model, x, target, ours, theirs, for_a_neuron):
    expected = theirs(model).attribute(x, target=target)
    torch.testing.assert_close(ours.attribute(Input(Score(model=model, target=target)), x), expected.detach(), **CLOSE)
    expected = for_a_neuron(model, model.tail).attribute(x, UNIT)
    torch.testing.assert_close(ours.attribute(Input(neuron(model, model.tail, UNIT)), x), expected.detach(), **CLOSE)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LRP(), rules.EpsilonRule()),
        (LRP(eps=0.1), rules.EpsilonRule(epsilon=0.1)),
        (LRP(rule="gamma"), rules.GammaRule()),
        (LRP(rule="alpha1beta0"), rules.Alpha1_Beta0_Rule()),
    ],
    ids=["epsilon", "large epsilon", "gamma", "alpha1beta0"],
)
def test_lrp(x, ours, theirs):
    """On positive images: Captum's gamma and alpha1beta0 hold where no input is negative."""
    model, x = chain_without_biases(), x.abs()
    for module in model:
        if not isinstance(module, nn.ReLU):
            module.rule = theirs
    target = model(x).argmax(1)
    expected = captum.LRP(model).attribute(x, target=target)
    score = Score(model=model, target=target)
    assert expected.abs().max() > 1e-2 and (score(x) > 0).all()
    torch.testing.assert_close(ours.attribute(Input(score), x), expected.detach(), rtol=1e-7, atol=1e-9)
