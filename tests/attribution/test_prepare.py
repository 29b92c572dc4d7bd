"""A prepared model gives the same scores, features and gradients at every site of the run, or the step is refused."""

import pytest
import torch
from torch import nn

from attribution.errors import ModelError
from attribution.explain import Images, explain, resolve
from attribution.passes import Passes
from attribution.prepare import compiled, difference, prepare
from attribution.question import parse
from attribution.seen import Seen
from attribution.steps import convolutions_before_norms


def questions(model, x, *texts):
    return [resolve(parse(text), model, x[:1]) for text in texts]


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_prepared_model_explains_the_same(model, x):
    asked = questions(model, x, "saliency", "ig(n_steps=3, at='block')", "gradcam", "ixg(at='norm')")
    prepared = prepare(model, asked, x)
    assert prepared.done == ("frozen", "channels_last", "rectifiers in place", "own convolutions")  # the norm is named
    images = Images(x, tuple("abcd"), torch.zeros(4, dtype=torch.int64))
    for ours, theirs in zip(
        explain(prepared.model, images, asked).answers, explain(model, images, asked).answers, strict=True
    ):
        torch.testing.assert_close(ours.attribution, theirs.attribution, rtol=0, atol=1e-12)


def test_a_float32_model_is_prepared_too(model, x):
    model, x = model.float(), x.float()
    asked = questions(model, x, "saliency", "gradcam")
    prepared = prepare(model, asked, x)
    assert prepared.done == ("frozen", "channels_last", "folded BatchNorm", "rectifiers in place", "own convolutions")
    assert all(p.dtype == torch.float32 for p in prepared.model.parameters())
    # folded in float64 and rounded once: a few float32 roundings of values around 1
    torch.testing.assert_close(prepared.model(x), model(x), rtol=0, atol=5e-6)


def test_the_model_as_given_is_not_touched(model, x):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.requires_grad_()
    prepared = prepare(model, questions(model, x, "saliency"), x).model
    assert norms(model) == ["norm"]
    assert norms(prepared) == []
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in prepared.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_names_stay(model, x):
    names = [name for name, _ in model.named_modules()]
    assert [name for name, _ in prepare(model, questions(model, x, "saliency"), x).model.named_modules()] == names


@pytest.mark.parametrize("text", ["ixg(at='stem')", "ixg(at='norm')", "saliency(of='stem:1,2,3')"])
def test_nothing_is_folded_at_or_beside_a_named_layer(model, x, text):
    assert norms(prepare(model, questions(model, x, text), x).model) == ["norm"]


class Shares(nn.Module):
    """A convolution whose output is used before and after its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        y = self.conv(x)
        return self.head((self.norm(y) + y).mean((2, 3)))


class Repeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x):
        return self.head(self.norm(self.conv(self.conv(x).relu())).mean((2, 3)))


def calibrated(make):
    torch.manual_seed(0)
    model = make().double().eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model


def test_a_fold_that_would_change_the_model_is_refused_with_its_reason(x):
    model = calibrated(Shares)
    prepared = prepare(model, questions(model, x, "saliency"), x)
    assert norms(prepared.model) == ["norm"]
    assert prepared.done == ("frozen", "channels_last", "own convolutions")
    assert "folded BatchNorm: moves a site of this run by" in prepared.refused[0]


def test_a_convolution_called_twice_is_not_folded(x):
    model = calibrated(Repeats)
    assert convolutions_before_norms(model, Seen.passing(model, x)) == []


def test_the_check_sees_a_move_at_any_site(model, x):
    moved = prepare(model, [], x).model
    assert difference(moved, model, [], x) < 1e-12
    with torch.no_grad():
        moved.block.weight[0, 0, 0, 0] += 1e-3
    assert difference(moved, model, [], x) > 1e-6
    # the head is behind the block: its input shows the move, whatever the score says
    asked = questions(model, x, "ixg(at='block')")
    assert difference(moved, model, asked, x) > 1e-6


@pytest.mark.parametrize("text", ["lrp", "lrp(rule='gamma')", "lrp(rule='alpha1beta0')"])
def test_rules_for_linear_operations_get_them_as_they_are_written(model, x, text):
    assert norms(prepare(model, questions(model, x, "saliency", text), x).model) == ["norm"]


@pytest.mark.parametrize("text", ["deep_lift", "deep_lift_shap", "guided_backprop", "deconvolution", "guided_grad_cam"])
def test_rules_for_nonlinear_operations_see_the_same_in_a_folded_model(model, x, text):
    asked = questions(model, x, text)
    prepared = prepare(model, asked, x)
    assert norms(prepared.model) == []
    images = Images(x, tuple("abcd"), torch.zeros(4, dtype=torch.int64))
    (ours,) = explain(prepared.model, images, asked).answers
    (theirs,) = explain(model, images, asked).answers
    # float64, some tens of sums in another order
    torch.testing.assert_close(ours.attribution, theirs.attribution, rtol=0, atol=1e-12)


def test_a_compiled_model_serves_passes_that_nothing_looks_into(model, x):
    calls = []
    fast = compiled(model, x[:2], backend="aot_eager")

    def counted(*inputs):
        calls.append(len(inputs[0]))
        return fast(*inputs)

    images = Images(x, tuple("abcd"), torch.zeros(4, dtype=torch.int64))
    for text, is_served in (("ig(n_steps=3)", True), ("saliency", True), ("occlusion(window=4, stride=4)", True)):
        (question,) = questions(model, x, text)
        plain = next(iter(explain(model, images, [question], rows_per_pass=2).answers))
        calls.clear()
        ours = next(iter(explain(model, images, [question], passes=Passes(2, compiled=counted)).answers))
        assert bool(calls) == is_served
        torch.testing.assert_close(ours.attribution, plain.attribution, rtol=0, atol=1e-10)


@pytest.mark.parametrize("text", ["ixg(at='block')", "saliency(of='block:1,2,3')", "guided_backprop", "lrp"])
def test_hooks_and_rules_see_the_model_as_it_is(model, x, text):
    (question,) = questions(model, x, text)
    images = Images(x, tuple("abcd"), torch.zeros(4, dtype=torch.int64))
    plain = next(iter(explain(model, images, [question], rows_per_pass=2).answers))
    # a compiled form that computes something else: only the prediction may come from it
    ours = next(iter(explain(model, images, [question], passes=Passes(2, compiled=lambda x: 2 * model(x))).answers))
    assert torch.equal(ours.attribution, plain.attribution)


def test_a_compiled_model_that_computes_something_else_is_refused(model, x, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: lambda x: model(1.001 * x))
    with pytest.raises(ModelError, match="compiling moves the output by"):
        compiled(model, x)
