"""Captum's rule-based classes: Captum's numbers on plain chains of modules, where it is right, and the right ones beyond."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import attribution
from attribution import (
    LRP,
    Alpha1_Beta0_Rule,
    DeepLift,
    DeepLiftShap,
    EpsilonRule,
    GammaRule,
    GuidedBackprop,
    GuidedGradCam,
    IdentityRule,
    LayerDeepLift,
    LayerLRP,
    NeuronDeepLift,
    NeuronDeepLiftShap,
)

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 1e-8, "atol": 1e-10}


@pytest.fixture
def chain():
    """Modules that are each used once, no two nonlinearities side by side, windows that don't overlap: where Captum is right."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


FUNCTIONS = {
    "none": None,
    "multipliers": lambda m: tuple(2 * part for part in m),
    "inputs": lambda m, x: tuple(a * b for a, b in zip(m, x, strict=True)),
    "baselines": lambda m, x, b: tuple(a * (c - d).abs() for a, c, d in zip(m, x, b, strict=True)),
}


@pytest.mark.parametrize("custom", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("multiply_by_inputs", [True, False])
def test_deep_lift(chain, x, baseline, custom, multiply_by_inputs):
    settings = {"target": [0, 2, 1, 0], "custom_attribution_func": custom, "return_convergence_delta": True}
    for given in (None, baseline, baseline[:1]):
        ours = DeepLift(chain, multiply_by_inputs).attribute(x, given, **settings)
        theirs = captum.DeepLift(chain, multiply_by_inputs).attribute(x, given, **settings)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    ours = LayerDeepLift(chain, chain[2], multiply_by_inputs).attribute(x, baseline, **settings)
    theirs = captum.LayerDeepLift(chain, chain[2], multiply_by_inputs).attribute(x, baseline, **settings)
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)
    settings = {"neuron_selector": (1, 2, 2), "baselines": baseline, "custom_attribution_func": custom}
    ours = NeuronDeepLift(chain, chain[2], multiply_by_inputs).attribute(x, **settings)
    close(ours, captum.NeuronDeepLift(chain, chain[2], multiply_by_inputs).attribute(x, **settings))


def in_tenths(inputs):
    """Captum hands the inputs as they were given, but a tuple always at layers."""
    return (inputs[0] if isinstance(inputs, tuple) else inputs)[:2] * 0.1


@pytest.mark.parametrize("custom", [FUNCTIONS["none"], FUNCTIONS["baselines"]], ids=["none", "baselines"])
def test_deep_lift_shap(chain, x, baseline, custom):
    """The mean over references; deltas of every row with every reference, those of a row together."""
    settings = {
        "target": torch.tensor([0, 2, 1, 0]),
        "custom_attribution_func": custom,
        "return_convergence_delta": True,
    }
    for given in (baseline[:3], lambda: baseline[:2], in_tenths):
        for name, layer in (("DeepLiftShap", ()), ("LayerDeepLiftShap", (chain[2],))):
            ours = getattr(attribution, name)(chain, *layer).attribute(x, given, **settings)
            theirs = getattr(captum, name)(chain, *layer).attribute(x, given, **settings)
            for one, other in zip(ours, theirs, strict=True):
                close(one, other)
    ours = NeuronDeepLiftShap(chain, chain[2]).attribute(x, (1, 2, 2), baseline)
    close(ours, captum.NeuronDeepLiftShap(chain, chain[2]).attribute(x, (1, 2, 2), baseline))


def test_deep_lift_beyond_modules(model, x, baseline):
    """An in-place ReLU, a residual sum: complete, where Captum leaves hooks' tensors and errors behind."""
    attributions, delta = DeepLift(model).attribute(x, baseline, target=1, return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-12 and attributions.shape == x.shape
    local = DeepLift(model, multiply_by_inputs=False).attribute(x, baseline, target=1)
    torch.testing.assert_close(local * (x - baseline), attributions)


class Cube(torch.autograd.Function):
    """An operation that no rule can see into."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Odd(nn.Module):
    def forward(self, x):
        return Cube.apply(x).flatten(1).sum(1)


@pytest.mark.filterwarnings("default")
def test_an_operation_without_a_rule_warns(x):
    with pytest.warns(UserWarning, match="no rule of deep_lift covers"):
        DeepLift(Odd()).attribute(x)


def test_errors(chain, x, baseline):
    with pytest.raises(AssertionError, match="two at least, or use DeepLift"):
        DeepLiftShap(chain).attribute(x, baseline[:1], target=0)
    with pytest.raises(AssertionError, match="two at least, or use DeepLift"):
        DeepLiftShap(chain).attribute(x, 0.0, target=0)
    with pytest.raises(AssertionError, match="takes 4 arguments"):
        DeepLift(chain).attribute(x, target=0, custom_attribution_func=lambda a, b, c, d: a)
    with pytest.raises(AssertionError, match="name a convolutional layer"):
        GuidedGradCam(chain, chain[-1]).attribute(x, 1)
    chain[0].rule = 1
    for build in (lambda: LRP(chain), lambda: LayerLRP(chain, chain[2])):
        with pytest.raises(TypeError, match=r"0\.rule is a int"):
            build()


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_rectified(chain, x, name):
    ours = getattr(attribution, name)(chain).attribute(x, [0, 2, 1, 0])
    close(ours, getattr(captum, name)(chain).attribute(x.clone(), [0, 2, 1, 0]))
    ours = getattr(attribution, f"Neuron{name}")(chain, chain[2]).attribute(x, (1, 2, 2))
    close(ours, getattr(captum, f"Neuron{name}")(chain, chain[2]).attribute(x.clone(), (1, 2, 2)))


def test_functional_rectifiers_take_part(x):
    """Captum's GuidedBackprop is the plain gradient here, without a word (facts 2.2, row 10)."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, 3).double().eval()
    guided = GuidedBackprop(lambda inputs: functional.relu(convolution(inputs)).mean((1, 2, 3))).attribute(x)
    same = nn.Sequential(convolution, nn.ReLU())
    close(guided, captum.GuidedBackprop(Mean(same)).attribute(x.clone()))


class Mean(nn.Module):
    """One number a row."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).mean((1, 2, 3))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("at_input", [False, True])
def test_guided_grad_cam(chain, x, mode, at_input):
    settings = {"target": [0, 2, 1, 0], "interpolate_mode": mode, "attribute_to_layer_input": at_input}
    ours = GuidedGradCam(chain, chain[2]).attribute(x, **settings)
    close(ours, captum.GuidedGradCam(chain, chain[2]).attribute(x.clone(), **settings))


@pytest.fixture
def positive():
    """A chain without biases on which Captum's LRP is right."""
    torch.manual_seed(1)
    return (
        nn.Sequential(
            nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)
        )
        .double()
        .eval()
    )


RULES = {
    "epsilon": ("EpsilonRule", EpsilonRule, {"epsilon": 0.01}),
    "gamma": ("GammaRule", GammaRule, {"gamma": 0.5}),
    "alpha1beta0": ("Alpha1_Beta0_Rule", Alpha1_Beta0_Rule, {}),
    "identity": ("IdentityRule", IdentityRule, {}),
}


@pytest.mark.parametrize(("name", "ours", "settings"), RULES.values(), ids=RULES)
def test_lrp_rules_of_modules(positive, name, ours, settings):
    """Captum's own rule objects serve as well as ours, and stay on their modules."""
    from captum.attr._utils import lrp_rules

    x = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model, other, third = positive, copy.deepcopy(positive), copy.deepcopy(positive)
    model[0].rule, other[0].rule = ours(**settings), getattr(lrp_rules, name)(**settings)
    third[0].rule = getattr(lrp_rules, name)(**settings)
    target = positive(x).argmax(1)
    maps, delta = LRP(model).attribute(x, target, return_convergence_delta=True)
    theirs, their_delta = captum.LRP(other).attribute(x.clone(), target, return_convergence_delta=True)
    torch.testing.assert_close(maps, theirs.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(delta, their_delta.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(LRP(third).attribute(x, target), maps) and isinstance(model[0].rule, ours)
    score = positive(x).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(LRP(model).compute_convergence_delta(maps, score), delta)


def test_lrp_at_layers(positive):
    x = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    settings = {"target": [0, 1, 2, 0], "return_convergence_delta": True}
    for layer, at_input in ((positive[2], False), (positive[2], True)):
        ours = LayerLRP(positive, layer).attribute(x, attribute_to_layer_input=at_input, **settings)
        theirs = captum.LayerLRP(positive, layer).attribute(x.clone(), attribute_to_layer_input=at_input, **settings)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-8)
    maps, deltas = LayerLRP(positive, [positive[0], positive[2]]).attribute(x, **settings)
    for layer, own, delta in zip((positive[0], positive[2]), maps, deltas, strict=True):
        alone, alone_delta = LayerLRP(positive, layer).attribute(x, **settings)
        torch.testing.assert_close(own, alone)
        torch.testing.assert_close(delta, alone_delta)


def test_threads_share_a_model(chain, x):
    """Of Captum's DeepLift in four threads on one model three raise (facts 2.2, row 19)."""
    from concurrent.futures import ThreadPoolExecutor

    asked = [DeepLift(chain), LRP(chain), GuidedBackprop(chain), LayerDeepLift(chain, chain[2])]
    alone = [method.attribute(x, target=1) for method in asked]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            together = list(threads.map(lambda method: method.attribute(x, target=1), asked))
            assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in chain.modules())
