"""Captum's names are drop-in: the same signatures, lineage and promises, imported only when asked for."""

import inspect
import pickle
import subprocess
import sys

import pytest
import torch

import attribution
from attribution import captum_names
from attribution.captum_names.table import CAPTUM

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

OURS_ALONE = {"InputBaselineXGradient"}  # Captum has it, but not in captum.attr
CLASSES = sorted(set(CAPTUM) - OURS_ALONE)


def parameters(function):
    """Names, kinds and defaults, without `seed`, which is ours."""
    found = [p for p in inspect.signature(function).parameters.values() if p.name != "seed"]
    return [(p.name, p.kind, "a function" if inspect.isfunction(p.default) else p.default) for p in found]


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_are_captums(name):
    ours, theirs = getattr(attribution, name), getattr(captum, name)
    assert parameters(ours) == parameters(theirs)
    assert parameters(ours.attribute) == parameters(theirs.attribute)
    assert ours.__name__ == name and ours.get_name() == theirs.get_name()
    lineage = [kind.__name__ for kind in theirs.__mro__ if kind.__name__ in captum.__all__]
    assert [kind.__name__ for kind in ours.__mro__ if kind.__name__ in captum.__all__] == lineage


def built(namespace, name, model, layer, **settings):
    """An object of a Captum-named class, at the layer where it takes one."""
    kind = getattr(namespace, name)
    if name == "NoiseTunnel":
        return kind(namespace.IntegratedGradients(model))
    if name == "LimeBase":
        return kind(model, *[len] * 6)
    return kind(model, layer, **settings) if "layer" in inspect.signature(kind).parameters else kind(model, **settings)


@pytest.mark.parametrize("name", CLASSES)
def test_promises_are_captums(name, model):
    ours, theirs = built(attribution, name, model, model.block), built(captum, name, model, model.block)
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert ours.forward_func is model
    if "multiply_by_inputs" in inspect.signature(getattr(attribution, name)).parameters:
        assert not built(attribution, name, model, model.block, multiply_by_inputs=False).multiplies_by_inputs
    with pytest.raises(NotImplementedError, match="attribute_future"):
        ours.attribute_future()


def test_names_are_exported_lazily():
    """`import attribution` loads no torch; its list of names is the one that captum_names makes from its table."""
    assert sorted(attribution.CAPTUM_NAMES) == sorted(captum_names.__all__)
    assert set(attribution.CAPTUM_NAMES) <= set(dir(attribution))
    code = "import sys, attribution; from attribution import visualization; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="LLMAttribution"):
        _ = attribution.LLMAttribution


@pytest.mark.parametrize("name", CLASSES)
def test_the_method_behind_the_decorator(name, model, x):
    """Captum's code calls `x.attribute.__wrapped__(x, ...)`; and classes can be pickled by name."""
    kind = getattr(attribution, name)
    assert inspect.unwrap(kind.attribute) is kind.attribute.__wrapped__
    assert pickle.loads(pickle.dumps(kind)) is kind
    asked = attribution.Saliency(model)
    assert torch.equal(asked.attribute.__wrapped__(asked, x, target=1), asked.attribute(x, 1))


@pytest.mark.parametrize("name", ["infidelity", "infidelity_perturb_func_decorator", "sensitivity_max"])
def test_functions_have_captums_signatures(name):
    import captum.metrics

    assert parameters(getattr(attribution, name)) == parameters(getattr(captum.metrics, name))
