"""Parity with Captum 0.9 in float64: the methods that walk from a baseline and credit a layer on the way."""

import pytest
import torch

from attribution.layer import Layer
from attribution.methods.activation import Activation
from attribution.methods.conductance import Conductance, NeuronConductance
from attribution.methods.internal_influence import InternalInfluence
from attribution.site import Score
from attribution.through import Through

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 0, "atol": 1e-8}  # Captum holds step sizes in float32; maps here are about 0.1
QUADRATURES = ["gausslegendre", "riemann_left", "riemann_trapezoid"]


def test_activation(model, x, target):
    ours = Activation().attribute(Layer(Score(model=model, target=target), model.block), x)
    torch.testing.assert_close(ours, captum.LayerActivation(model, model.block).attribute(x).detach(), **CLOSE)


@pytest.mark.parametrize("method", QUADRATURES)
def test_conductance(model, x, baseline, target, method):
    site = Layer(Score(model=model, target=target), model.block)
    ours = Conductance(n_steps=7, method=method).attribute(site, x, baseline)
    theirs = captum.LayerConductance(model, model.block).attribute(x, baseline, target=target, n_steps=7, method=method)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


@pytest.mark.parametrize("method", QUADRATURES)
def test_internal_influence(model, x, baseline, target, method):
    site = Layer(Score(model=model, target=target), model.block)
    ours = InternalInfluence(n_steps=7, method=method).attribute(site, x, baseline)
    theirs = captum.InternalInfluence(model, model.block).attribute(
        x, baseline, target=target, n_steps=7, method=method
    )
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


def test_neuron_conductance(model, x, baseline, target):
    site = Through(Score(model=model, target=target), model.block, (1, 2, 3))
    ours = NeuronConductance(n_steps=7).attribute(site, x, baseline)
    theirs = captum.NeuronConductance(model, model.block).attribute(x, (1, 2, 3), baseline, target=target, n_steps=7)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)
