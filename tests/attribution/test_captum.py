"""Parity with Captum 0.9 in float64 where Captum is right, at input, layer and neuron sites."""

import pytest
import torch

from attribution.baselines import Baselines
from attribution.hooks import Place
from attribution.layer import Layer
from attribution.methods.grad_cam import GradCam
from attribution.methods.gradient_shap import GradientShap
from attribution.methods.input_x_gradient import InputXGradient
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.noise_tunnel import NoiseTunnel
from attribution.methods.occlusion import Occlusion
from attribution.methods.saliency import Saliency
from attribution.noise import Draws
from attribution.passes import Passes
from attribution.site import Input, Score, neuron

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

UNIT = (1, 2, 3)
CLOSE = {"rtol": 0, "atol": 1e-8}  # Captum holds step sizes and Occlusion's result in float32; maps here are about 0.1


@pytest.fixture(params=[None, 3], ids=["one pass", "passes of 3"])
def passes(request):
    return Passes(request.param)


def test_saliency(model, x, target, passes):
    ours = Saliency().attribute(Input(Score(model=model, target=target), passes), x)
    torch.testing.assert_close(ours, captum.Saliency(model).attribute(x, target=target).detach(), **CLOSE)
    ours = Saliency(abs=False).attribute(Input(neuron(model, model.block, UNIT), passes), x)
    torch.testing.assert_close(ours, captum.NeuronGradient(model, model.block).attribute(x, UNIT).detach(), **CLOSE)


def test_input_x_gradient(model, x, target, passes):
    score = Score(model=model, target=target)
    ours = InputXGradient().attribute(Input(score, passes), x)
    torch.testing.assert_close(ours, captum.InputXGradient(model).attribute(x, target=target).detach(), **CLOSE)
    ours = InputXGradient().attribute(Layer(score, model.block, passes), x)
    theirs = captum.LayerGradientXActivation(model, model.block).attribute(x, target=target)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


@pytest.mark.parametrize(
    "method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]
)
def test_integrated_gradients(model, x, baseline, target, passes, method):
    ig, score = IntegratedGradients(n_steps=9, method=method), Score(model=model, target=target)
    settings = {"n_steps": 9, "method": method}
    theirs = captum.IntegratedGradients(model).attribute(x, baseline, target=target, **settings)
    torch.testing.assert_close(ig.attribute(Input(score, passes), x, baseline), theirs.detach(), **CLOSE)
    theirs = captum.LayerIntegratedGradients(model, model.block).attribute(x, baseline, target=target, **settings)
    torch.testing.assert_close(ig.attribute(Layer(score, model.block, passes), x, baseline), theirs.detach(), **CLOSE)
    theirs = captum.NeuronIntegratedGradients(model, model.block).attribute(x, UNIT, baseline, **settings)
    ours = ig.attribute(Input(neuron(model, model.block, UNIT), passes), x, baseline)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


def test_occlusion(model, x, baseline, target, passes):
    windows = {"sliding_window_shapes": (3, 5, 4), "strides": (3, 3, 2)}
    ours = Occlusion(window=(5, 4), stride=(3, 2)).attribute(
        Input(Score(model=model, target=target), passes), x, baseline
    )
    theirs = captum.Occlusion(model).attribute(x, baselines=baseline, target=target, **windows)
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-7)  # Captum's result is float32


def test_grad_cam(model, x, target, passes):
    site = Layer(Score(model=model, target=target), model.tail, passes)
    for relu in (False, True):
        theirs = captum.LayerGradCam(model, model.tail).attribute(x, target=target, relu_attributions=relu)
        torch.testing.assert_close(GradCam(relu=relu).attribute(site, x), theirs.detach(), **CLOSE)


def places(model, target):
    score = Score(model=model, target=target)
    return {
        "input": (Input(score), captum.GradientShap(model), {"target": target}),
        "layer": (Layer(score, Place(model.block)), captum.LayerGradientShap(model, model.block), {"target": target}),
        "neuron": (
            Input(neuron(model, model.block, UNIT)),
            captum.NeuronGradientShap(model, model.block),
            {"neuron_selector": UNIT},
        ),
    }


@pytest.mark.parametrize("place", ["input", "layer", "neuron"])
def test_gradient_shap_agrees_in_distribution(model, x, baseline, target, place):
    """Two independent means of n draws differ by at most a few of their standard errors."""
    site, theirs, arguments = places(model, target)[place]
    n, batches = 40, 12
    shap = GradientShap(n_samples=n, stdev=0.2)
    rows = Baselines.of_rows(baseline)
    ours = torch.stack([shap.attribute(site, x, rows, Draws(seed, tuple("abcd"))) for seed in range(batches)])
    torch.manual_seed(0)
    other = torch.stack(
        [theirs.attribute(x, baselines=baseline, n_samples=n, stdevs=0.2, **arguments).detach() for _ in range(batches)]
    )
    error = ((ours.var(0) + other.var(0)) / batches).sqrt()
    distance = (ours.mean(0) - other.mean(0)).abs()
    # Some thousand entries: 5 standard errors are passed by about 1 in 10^4 of t with 22 degrees of freedom.
    assert (distance <= 5 * error + 1e-12).float().mean() > 0.998
    assert (distance <= 8 * error + 1e-12).all()


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_agrees_in_distribution(model, x, target, kind):
    n, batches = 60, 10
    tunnel = NoiseTunnel(Saliency(), kind, samples=n, stdev=0.3)
    site = Input(Score(model=model, target=target))
    ours = torch.stack([tunnel.attribute(site, x, Draws(seed, tuple("abcd"))) for seed in range(batches)])
    torch.manual_seed(0)
    theirs = torch.stack(
        [
            captum.NoiseTunnel(captum.Saliency(model))
            .attribute(x, nt_type=kind, nt_samples=n, stdevs=0.3, target=target)
            .detach()
            for _ in range(batches)
        ]
    )
    error = ((ours.var(0) + theirs.var(0)) / batches).sqrt()
    distance = (ours.mean(0) - theirs.mean(0)).abs()
    assert (distance <= 5 * error + 1e-12).float().mean() > 0.998
    assert (distance <= 9 * error + 1e-12).all()


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq"])
def test_noise_tunnel_without_noise_is_captum_s_map(model, x, target, kind):
    tunnel = NoiseTunnel(Saliency(), kind, samples=3, stdev=0.0)
    ours = tunnel.attribute(Input(Score(model=model, target=target)), x, Draws(0, tuple("abcd")))
    theirs = captum.Saliency(model).attribute(x, target=target).detach()
    torch.testing.assert_close(ours, theirs if kind == "smoothgrad" else theirs**2, **CLOSE)
