"""Captum's own table of cases: its answers where Captum is right, each row alone as in its batch, and no traces after errors."""

import copy

import pytest
import torch

import attribution
from attribution.captum_names.table import CAPTUM

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
table = pytest.importorskip("captum.testing.attr.helpers.test_config", reason="Captum's wheel carries its test table")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

RANDOM = {"GradientShap", "LayerGradientShap", "NeuronGradientShap", "ShapleyValueSampling", "Lime", "KernelShap"}
"""Their draws are not Captum's: test_captum_random.py and test_captum_perturbed.py compare them otherwise."""
OF_THE_BATCH = {"FeaturePermutation"}
"""Permutes rows of the batch, in an order that is drawn."""
MODULES_ONLY = "Captum's LRP sees modules only: sums and factors outside of them are not shared (docs/captum.md, LRP)"
DIFFERENT = {
    ("LRP", "basic_multi_input"): MODULES_ONLY,
    ("LRP", "basic_multi_input_multi_target"): MODULES_ONLY,
    ("LRP", "basic_multi_input_multi_target_nt"): MODULES_ONLY,
    ("LRP", "basic_multiple_tuple_target"): MODULES_ONLY,
    ("LRP", "basic_multiple_tuple_target_nt"): MODULES_ONLY,
}
"""(class, case) -> why Captum's answer is not the right one."""


def cases(wanted=lambda row, name: True):
    """One case for each class in each row of the table."""
    for row in table.config:
        for algorithm in row["algorithms"]:
            name = algorithm.__name__
            if name in CAPTUM and wanted(row, name):
                tunnel = "-tunnel" if row.get("noise_tunnel") else ""
                yield pytest.param(row, name, id=f"{row['name']}-{name}{tunnel}")


def in_double(value):
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(map(in_double, value)) if isinstance(value, tuple | list) else value


def asked(namespace, row, name, model):
    modules = dict(model.named_modules())
    layer = row.get("layer")
    where = [modules[one] for one in layer] if isinstance(layer, list) else modules.get(layer)
    method = getattr(namespace, name)(*((model,) if layer is None else (model, where)))
    return namespace.NoiseTunnel(method) if row.get("noise_tunnel") else method


def answer(namespace, row, name, **changed):
    model = copy.deepcopy(row["model"]).double()
    arguments = {key: in_double(value) for key, value in row["attribute_args"].items()}
    return asked(namespace, row, name, model).attribute(**{**arguments, **changed})


def assert_same(ours, theirs, rtol=1e-6, atol=1e-8):
    """Equal forms, shapes and numbers; Captum keeps step sizes and some results in float32."""
    assert type(ours) is type(theirs)
    if isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, rtol, atol)
        return
    assert ours.shape == theirs.shape and not ours.requires_grad
    scale = max(1.0, float(theirs.detach().abs().max())) if theirs.numel() else 1.0
    torch.testing.assert_close(ours.double(), theirs.detach().double(), rtol=rtol, atol=atol * scale)


@pytest.mark.parametrize(("row", "name"), list(cases(lambda row, name: name not in RANDOM | OF_THE_BATCH)))
def test_captums_answer(row, name):
    if (name, row["name"]) in DIFFERENT:
        pytest.skip(DIFFERENT[name, row["name"]])
    assert_same(answer(attribution, row, name), answer(captum, row, name))


def alone(value, i, count):
    """What belongs to row i."""
    if isinstance(value, torch.Tensor):
        return value[i : i + 1] if value.dim() and len(value) == count else value
    if isinstance(value, list):
        return value[i : i + 1] if len(value) == count else value
    return tuple(alone(item, i, count) for item in value) if isinstance(value, tuple) else value


def row_of(result, i):
    return result[i : i + 1] if isinstance(result, torch.Tensor) else type(result)(row_of(part, i) for part in result)


@pytest.mark.parametrize(("row", "name"), list(cases(lambda row, name: name not in RANDOM | OF_THE_BATCH)))
def test_each_row_alone(row, name):
    """The answer for a row does not depend on its batch mates."""
    arguments = {key: in_double(value) for key, value in row["attribute_args"].items()}
    inputs = arguments["inputs"]
    count = len(inputs[0] if isinstance(inputs, tuple) else inputs)
    whole = answer(attribution, row, name)
    kept = {"baselines"} if row.get("baseline_distr") else set()
    for i in (0, count - 1):
        own = {key: value if key in kept else alone(value, i, count) for key, value in arguments.items()}
        assert_same(answer(attribution, row, name, **own), row_of(whole, i), rtol=1e-9)


def faults():
    """One row for each class, with each thing that can be wrong in it."""
    for case in {case.values[1]: case for case in cases()}.values():
        row, name = case.values
        for wrong in ("target", "neuron_selector", "layer"):
            if wrong in row or wrong in row["attribute_args"]:
                yield pytest.param(row, name, wrong, id=f"{name}-{wrong}")


@pytest.mark.parametrize(("row", "name", "wrong"), list(faults()))
def test_no_hooks_remain_after_an_error(row, name, wrong):
    model = copy.deepcopy(row["model"])
    arguments = dict(row["attribute_args"])
    if wrong == "layer":
        layer = row["layer"][0] if isinstance(row["layer"], list) else row["layer"]
        model.set_submodule(layer, Failing())
    else:
        arguments[wrong] = (9999,) * 20
    with pytest.raises(AssertionError):
        asked(attribution, row, name, model).attribute(**arguments)
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in model.modules()]
    assert not any(any(kinds) for kinds in hooks)


class Failing(torch.nn.Module):
    """A layer that can't run."""

    def forward(self, *args):
        raise AssertionError("this layer can't run")
