"""Every form of argument that Captum takes means what it means there, and bad ones say what is wrong and the way out."""

import numpy as np
import pytest
import torch
from torch import nn

import attribution
from attribution import (
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerAttribution,
    LayerConductance,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NeuronConductance,
    NeuronGradient,
    NeuronIntegratedGradients,
    NoiseTunnel,
    Saliency,
)

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 1e-6, "atol": 1e-8}  # Captum holds step sizes in float32


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


TARGETS = {
    "int": 2,
    "negative": -1,
    "scalar": torch.tensor(2),
    "one": torch.tensor([2]),
    "list": [0, 3, 1, 4],
    "tensor": torch.tensor([0, 3, 1, 4]),
    "tuple": (2,),
    "tuples": [(0,), (3,), (1,), (4,)],
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets(model, x, target):
    close(Saliency(model).attribute(x, target), captum.Saliency(model).attribute(x, target))
    block = model.block
    close(
        LayerConductance(model, block).attribute(x, 0.1, target, n_steps=4),
        captum.LayerConductance(model, block).attribute(x, 0.1, target, n_steps=4),
    )


def test_targets_that_captum_refuses(model, x):
    want = Saliency(model).attribute(x, 2)
    for target in (np.int64(2), np.array([2]), [np.int64(2)] * 4, [torch.tensor(2)] * 4, np.array([2, 2, 2, 2])):
        assert torch.equal(Saliency(model).attribute(x, target), want)


class Grid(nn.Module):
    """Output (N, 2, 3), and (N, 2, 1) when narrow."""

    def forward(self, x, narrow=False):
        grid = torch.stack([(x ** (k + 1)).flatten(1).mean(1) for k in range(6)], 1).reshape(-1, 2, 3)
        return grid[:, :, :1] if narrow else grid


@pytest.mark.parametrize("target", [(1, 2), [(0, 1), (1, 1), (1, 2), (0, 0)]])
def test_targets_of_larger_outputs(x, target):
    close(InputXGradient(Grid()).attribute(x, target), captum.InputXGradient(Grid()).attribute(x, target))
    with pytest.raises(AssertionError, match="does not fit an output of shape"):
        InputXGradient(Grid()).attribute(x, 1)
    close(InputXGradient(Grid()).attribute(x, 1, True), captum.InputXGradient(Grid()).attribute(x, 1, True))


BASELINES = {
    "none": lambda b: None,
    "int": lambda b: 0,
    "float": lambda b: 0.5,
    "rows": lambda b: b,
    "one row": lambda b: b[:1],
    "tuple": lambda b: (b,),
}


@pytest.mark.parametrize("form", BASELINES.values(), ids=BASELINES)
def test_baselines(model, x, baseline, form):
    given, settings = form(baseline), {"target": 1, "n_steps": 5, "return_convergence_delta": True}
    for ours, theirs in zip(
        IntegratedGradients(model).attribute(x, given, **settings),
        captum.IntegratedGradients(model).attribute(x, given, **settings),
        strict=True,
    ):
        close(ours, theirs)
    for ours, theirs in zip(
        LayerIntegratedGradients(model, model.pool).attribute(x, given, **settings),
        captum.LayerIntegratedGradients(model, model.pool).attribute(x, given, **settings),
        strict=True,
    ):
        close(ours, theirs)


class Several(nn.Module):
    """Two images, a tensor with a row for each, one without rows, a list, and a number."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x, y, gain, table, words=("a",), power=1):
        mixed = self.first(x).tanh() * self.second(y).sigmoid()
        return self.head(mixed.mean((2, 3))) * gain[:, None] ** power + table.sum() * len(words)


@pytest.fixture
def several(x):
    torch.manual_seed(0)
    model = Several().double().eval()
    gain, table = torch.arange(1.0, 5).double(), torch.ones(7, 2, dtype=torch.float64)
    return model, (x, 0.5 * x.flip(0)), (gain, table, ["b", "c"], 2)


def test_tuples_and_arguments(several):
    model, inputs, arguments = several
    settings = {"target": [0, 1, 2, 3], "additional_forward_args": arguments}
    for name in ("Saliency", "InputXGradient"):
        ours = getattr(attribution, name)(model).attribute(inputs, **settings)
        theirs = getattr(captum, name)(model).attribute(inputs, **settings)
        assert isinstance(ours, tuple)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    ours = IntegratedGradients(model).attribute(inputs, (0.1, inputs[0]), n_steps=1, **settings)
    # Captum repeats every tensor for every step, the table too; with one step it can't
    theirs = captum.IntegratedGradients(model).attribute(inputs, (0.1, inputs[0]), n_steps=1, **settings)
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)
    (alone,) = IntegratedGradients(lambda x: model(x, inputs[1], *arguments)).attribute(inputs[:1], target=[0, 1, 2, 3])
    assert alone.shape == inputs[0].shape


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_internal_batches(several, size):
    """A pass has at most that many rows, fewer than the inputs too, where Captum never splits them."""
    model, inputs, arguments = several
    settings = {"target": [0, 1, 2, 3], "additional_forward_args": arguments, "n_steps": 4}
    seen = []
    handle = model.head.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    ours = IntegratedGradients(model).attribute(inputs, internal_batch_size=size, **settings)
    handle.remove()
    assert max(seen) == min(size, 4)
    for one, other in zip(ours, IntegratedGradients(model).attribute(inputs, **settings), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


SELECTORS = {
    "tuple": (1, 2, 3),
    "negative": (1, -1, 3),
    "slices": (slice(0, 2), 1, slice(None)),
    "function": lambda out: out[:, 1, 2, 3] * out[:, 0, 0, 0],
    "column": lambda out: out[:, :1, 2, 3],
    "one number": lambda out: out[:, 1, 2, 3].sum(),
}


@pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS)
@pytest.mark.parametrize("at_input", [False, True])
def test_neuron_selectors(model, x, selector, at_input):
    settings = {"attribute_to_neuron_input": at_input}
    ours = NeuronGradient(model, model.block).attribute(x, selector, **settings)
    close(ours, captum.NeuronGradient(model, model.block).attribute(x, selector, **settings))
    ours = NeuronIntegratedGradients(model, model.block).attribute(x, selector, n_steps=4, **settings)
    close(ours, captum.NeuronIntegratedGradients(model, model.block).attribute(x, selector, n_steps=4, **settings))


@pytest.mark.parametrize("multiply_by_inputs", [True, False])
def test_neuron_conductance(model, x, baseline, multiply_by_inputs):
    settings = {"target": [0, 1, 2, 3], "n_steps": 6, "method": "gausslegendre", "internal_batch_size": 4}
    ours = NeuronConductance(model, model.block, multiply_by_inputs=multiply_by_inputs)
    theirs = captum.NeuronConductance(model, model.block, multiply_by_inputs=multiply_by_inputs)
    close(ours.attribute(x, (1, 2, 3), baseline, **settings), theirs.attribute(x, (1, 2, 3), baseline, **settings))
    close(ours.attribute(x, (1, 2, 3), target=1), theirs.attribute(x, (1, 2, 3), target=1))


@pytest.mark.parametrize("name", ["LayerGradientXActivation", "LayerActivation", "LayerConductance", "LayerGradCam"])
def test_layer_inputs(model, x, name):
    settings = {"attribute_to_layer_input": True} | ({} if name == "LayerActivation" else {"target": 1})
    ours = getattr(attribution, name)(model, model.relu2).attribute(x, **settings)
    close(ours, getattr(captum, name)(model, model.relu2).attribute(x, **settings))


@pytest.mark.parametrize("settings", [{"relu_attributions": True}, {"attr_dim_summation": False}])
def test_grad_cam(model, x, settings):
    ours = LayerGradCam(model, model.tail).attribute(x, 1, **settings)
    close(ours, captum.LayerGradCam(model, model.tail).attribute(x, 1, **settings))
    enlarged = LayerAttribution.interpolate(ours, (12, 10), "bilinear")
    close(enlarged, captum.LayerAttribution.interpolate(ours, (12, 10), "bilinear"))


def test_lists_of_layers(model, x):
    layers = [model.tail, model.stem]
    ours, theirs = LayerActivation(model, layers).attribute(x), captum.LayerActivation(model, layers).attribute(x)
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)
    ours = LayerGradientXActivation(model, layers).attribute(x, 1)
    each = [LayerGradientXActivation(model, layer).attribute(x, 1) for layer in layers]
    for one, other in zip(ours, each, strict=True):
        close(one, other)
    assert isinstance(LayerActivation(model, [model.tail]).attribute(x), list)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.layer(x).tanh()).sum(1)


def test_a_layer_called_twice_means_the_last_call():
    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(3, 6, dtype=torch.float64)
    close(LayerActivation(model, model.layer).attribute(x), captum.LayerActivation(model, model.layer).attribute(x))
    ours = LayerGradientXActivation(model, model.layer).attribute(x)
    close(ours, captum.LayerGradientXActivation(model, model.layer).attribute(x))
    attributions, delta = LayerIntegratedGradients(model, model.layer).attribute(x, return_convergence_delta=True)
    close(attributions, ours - LayerGradientXActivation(model, model.layer).attribute(0 * x))
    assert float(delta.abs().max()) < 1e-12  # Captum puts the activation in place at both calls: its delta is about 1
    tunnel = NoiseTunnel(LayerIntegratedGradients(model, [model.layer]))
    (noisy,) = tunnel.attribute(x, stdevs=0.0, nt_samples=2)
    close(noisy, attributions)


def test_convergence_delta(model, x, baseline):
    integrated, theirs = IntegratedGradients(model), captum.IntegratedGradients(model)
    maps = integrated.attribute(x, target=1, n_steps=3)
    delta = integrated.compute_convergence_delta(maps, 0, x, 1)
    close(delta, theirs.compute_convergence_delta(maps, 0, x, 1))
    assert torch.equal(integrated.attribute(x, target=1, n_steps=3, return_convergence_delta=True)[1], delta)
    given = {"start_point": (baseline,), "end_point": (x,), "target": torch.tensor([1, 2, 3, 0])}
    close(integrated.compute_convergence_delta((maps,), **given), theirs.compute_convergence_delta((maps,), **given))
    with pytest.raises(AssertionError, match="3 rows of attributions for an end_point of 4 rows"):
        integrated.compute_convergence_delta(maps[:3], 0, x, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_is_kept(model, x, dtype):
    own, inputs = model.to(dtype), x.to(dtype)
    for name in ("Saliency", "IntegratedGradients", "InputXGradient"):
        assert getattr(attribution, name)(own).attribute(inputs, target=1).dtype == dtype
    tunnel = NoiseTunnel(IntegratedGradients(own))
    assert tunnel.attribute(inputs, "vargrad", target=1, stdevs=0.1, n_steps=3).dtype == dtype


def test_the_callers_tensors_and_model_stay_as_they_are(model, x):
    model.requires_grad_()
    inputs = x.clone().requires_grad_()
    ours = IntegratedGradients(model).attribute(inputs, target=1)
    assert not ours.requires_grad and inputs.grad is None and all(p.grad is None for p in model.parameters())
    with pytest.raises(AssertionError):
        IntegratedGradients(model).attribute(x, target=(1, 2))
    assert not x.requires_grad
    with torch.inference_mode():
        close(Saliency(model).attribute(x + 0, 1), Saliency(model).attribute(x, 1))
    with torch.no_grad():
        close(Saliency(model).attribute(x, 1), captum.Saliency(model).attribute(x.clone(), 1))


BAD = {
    "a list of targets too short": (lambda m, x: Saliency(m).attribute(x, [1, 2]), "2 targets for 4 rows"),
    "a target that is no index": (lambda m, x: Saliency(m).attribute(x, "cat"), "'cat' is not an index"),
    "a fraction": (lambda m, x: Saliency(m).attribute(x, 1.5), "1.5 is not an index"),
    "no target": (lambda m, x: Saliency(m).attribute(x), "no target was given"),
    "inputs in a list": (lambda m, x: Saliency(m).attribute([x], 1), "inputs are list"),
    "two baselines": (lambda m, x: IntegratedGradients(m).attribute(x, (0, 0), target=1), "2 baseline"),
    "a baseline of another shape": (
        lambda m, x: IntegratedGradients(m).attribute(x, x[:2], target=1),
        "does not fit an input",
    ),
    "a text as baseline": (lambda m, x: IntegratedGradients(m).attribute(x, "zero", target=1), "not str"),
    "an unknown quadrature": (
        lambda m, x: IntegratedGradients(m).attribute(x, target=1, method="gauss"),
        "nearest: gausslegendre",
    ),
    "an unknown noise": (
        lambda m, x: NoiseTunnel(Saliency(m)).attribute(x, nt_type="smooth", target=1),
        "nearest: smoothgrad",
    ),
    "no rows in a pass": (
        lambda m, x: IntegratedGradients(m).attribute(x, target=1, internal_batch_size=0),
        "internal_batch_size=0",
    ),
    "too few indices": (lambda m, x: NeuronGradient(m, m.block).attribute(x, 1), "1 indices"),
    "a selector's form": (
        lambda m, x: NeuronGradient(m, m.block).attribute(x, lambda out: out),
        "one number for each of 4 rows",
    ),
    "a name for a layer": (lambda m, x: LayerActivation(m, "block").attribute(x), "the layer is a str"),
    "a layer elsewhere": (lambda m, x: LayerActivation(m, nn.ReLU()).attribute(x), "not reached"),
    "a model in training": (lambda m, x: Saliency(m.train()).attribute(x, 1), "model.eval"),
    "no model": (lambda m, x: Saliency(None).attribute(x, 1), "the model is a NoneType"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_errors_are_captums_kind_and_say_the_way_out(model, x, call, message):
    with pytest.raises(AssertionError, match=message) as caught:
        call(model, x)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="inputs"):
        Saliency(model).attribute(target=1)
