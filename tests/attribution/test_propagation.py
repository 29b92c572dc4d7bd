"""Rules lent to a pass: paired with the reference call by call, audited, seen by nobody else, and gone afterwards."""

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attribution.baselines import Baselines
from attribution.bundle import Bundle
from attribution.clamp import hardtanh_
from attribution.errors import AttributionError, ModelError
from attribution.layer import Layer
from attribution.methods.deconvolution import Deconvolution
from attribution.methods.deep_lift import DeepLift
from attribution.methods.deep_lift_shap import DeepLiftShap
from attribution.methods.guided_backprop import GuidedBackprop
from attribution.methods.lrp import LRP
from attribution.nodes import PropagationError, RowsDiffer
from attribution.passes import Passes
from attribution.propagation import lent
from attribution.ruled import UncoveredOperationError, compared
from attribution.rules.linear import Epsilon
from attribution.rules.rectified import DECONVOLVED, GUIDED
from attribution.rules.relevance import relevance
from attribution.rules.rescale import RESCALE
from attribution.site import Input, Score, neuron

RULED = [DeepLift(), GuidedBackprop(), Deconvolution(), LRP()]


def asked(method, site, x, baseline=None):
    return method.attribute(site, x, **({"baseline": baseline} if "baseline" in method.needs() else {}))


def complete(site, x, baseline, attribution):
    difference = site.score(x) - site.score(baseline.expand_as(x))
    torch.testing.assert_close(attribution.flatten(1).sum(1), difference, rtol=1e-9, atol=1e-12)


@pytest.fixture
def site(model, target):
    return Input(Score(model=model, target=target))


# what the methods promise, at every kind of site


def test_deep_lift_is_complete_at_the_input_at_layers_and_for_a_neuron(model, x, baseline, target, site):
    complete(site, x, baseline, DeepLift().attribute(site, x, baseline))
    for name in ("relu1", "pool", "tail", "relu3"):  # each is all that the rest of the network gets
        layer = Layer(site.explained, getattr(model, name))
        complete(layer, x, baseline, DeepLift().attribute(layer, x, baseline))
    unit = Input(neuron(model, model.tail, (1, 2, 3)))
    complete(unit, x, baseline, DeepLift().attribute(unit, x, baseline))


def test_a_linear_model_gets_weight_times_distance(x, baseline):
    model = nn.Sequential(nn.Flatten(), nn.Linear(360, 1)).double().eval()
    attribution = DeepLift().attribute(Input(Score(model=model)), x, baseline)
    torch.testing.assert_close(attribution, model[1].weight.detach().reshape(1, 3, 12, 10) * (x - baseline))


def test_deep_lift_without_the_distance_is_the_multiplier(site, x, baseline):
    multiplier = DeepLift(multiply_by_inputs=False).attribute(site, x, baseline)
    torch.testing.assert_close(multiplier * (x - baseline), DeepLift().attribute(site, x, baseline))


def test_deep_lift_shap_is_the_mean_over_the_baselines(site, x, baseline):
    alone = [DeepLift().attribute(site, x, baseline[k : k + 1]) for k in range(4)]
    several = DeepLiftShap().attribute(site, x, Baselines.of_rows(baseline))
    torch.testing.assert_close(several, sum(alone) / 4)
    difference = DeepLiftShap().explained_difference(site, x, Baselines.of_rows(baseline))
    torch.testing.assert_close(several.flatten(1).sum(1), difference)


def test_deep_lift_shap_sends_the_images_forward_once(model, x, baseline, target):
    rows = []

    def counting(x):
        rows.append(len(x))
        return model(x)

    DeepLiftShap().attribute(Input(Score(model=counting, target=target)), x, Baselines.of_rows(baseline))
    assert rows == [4, 1, 1, 1, 1]


@pytest.mark.parametrize("method", [DeepLift(), DeepLiftShap()])
def test_the_explained_difference(method, site, x, baseline):
    """Also from one row that stands for all, and for a neuron, which has no target."""
    needs = lambda row: {"baseline": row} if "baseline" in method.needs() else {"baselines": Baselines((row,))}  # noqa: E731
    for reference in (baseline, baseline[:1]):
        for asked_site in (site, Input(neuron(site.explained.model, site.explained.model.tail, (1, 2, 3)))):
            expected = asked_site.score(x) - asked_site.score(reference.expand_as(x))
            torch.testing.assert_close(method.explained_difference(asked_site, x, **needs(reference)), expected)


def test_lrp_leaves_out_what_biases_take(model, x, target):
    """Without biases relevance adds up to the score; with them the delta is theirs."""
    for module in model.modules():
        for name in ("bias", "running_mean"):
            if getattr(module, name, None) is not None:
                getattr(module, name).data.zero_()
    for place in (None, model.block, model.tail):
        score = Score(model=model, target=target)
        site = Input(score) if place is None else Layer(score, place)
        if place is model.block:
            continue  # half of the signal goes around the block
        for rule in ("epsilon", "gamma", "alpha1beta0"):
            relevance = LRP(rule=rule).attribute(site, x)
            torch.testing.assert_close(relevance.flatten(1).sum(1), site.score(x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [GuidedBackprop(), Deconvolution()])
def test_guided_maps_differ_from_the_gradient(site, model, x, method):
    for place in (site, Input(neuron(model, model.tail, (1, 2, 3)))):
        assert not torch.allclose(method.attribute(place, x), place.gradient(x))


def test_several_inputs(x, baseline):
    model = lambda a, b: (F.silu(a) * b.sigmoid()).flatten(1).sum(1)  # noqa: E731
    site = Input(Score(model=model))
    pair, reference = Bundle([x, x.flip(2)]), Bundle([baseline, baseline[:1].expand_as(x)])
    attribution = DeepLift().attribute(site, pair, reference)
    total = sum(part.flatten(1).sum(1) for part in attribution.parts)
    torch.testing.assert_close(total, site.score(pair) - site.score(reference))


def test_a_call_in_place_gives_back_the_tensor_it_wrote_to():
    """In-place activations stay in place; the tensor written to carries the rule's gradient."""
    x = torch.linspace(-2, 2, 8, dtype=torch.float64, requires_grad=True)
    for rules in (GUIDED, DECONVOLVED, RESCALE):
        with lent(rules) as lending:
            y = x * 1
            returned = F.relu(y, inplace=True)
        assert returned is y
        assert torch.equal(y, x.relu())
        if rules is RESCALE:
            with lending.reference():
                F.relu(torch.ones(8, dtype=torch.float64) * 1, inplace=True)
        gradient = torch.autograd.grad(y.sum(), x)[0]
        expected = {"guided_backprop": (x > 0).double(), "deconvolution": torch.ones(8).double()}
        slope = (x.relu() - 1) / (x - 1)
        torch.testing.assert_close(gradient, expected.get(rules.name, slope).detach())


@pytest.mark.parametrize(
    ("rules", "is_kept_twice"), [(RESCALE, False), (relevance(Epsilon(1e-9)), True)], ids=["deep_lift", "lrp"]
)
def test_an_input_that_nobody_else_reads_is_kept_without_a_copy(rules, is_kept_twice):
    """And written over only where no other rule keeps it: LRP damps by what came out of the layer before."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64)

    def f(x, clamp):
        z = F.linear(x, weight)
        return z, clamp(z, 0.0, 1.0)

    def gradient(clamp):
        with lent(rules) as lending:
            z, y = f(x, clamp)
        before = z.detach().clone()
        if rules is RESCALE:
            with lending.reference():
                f(torch.ones(1, 4, dtype=torch.float64), clamp)
        lending.end()
        (kept,) = lending.calls[-1].inputs
        is_copied = kept.tensor.data_ptr() != z.data_ptr()
        credit = torch.autograd.grad(y.sum(), x)[0]
        is_overwritten = not torch.equal(before, z)
        lending.forget()
        return credit, is_copied, is_overwritten

    expected, *_ = gradient(F.hardtanh)
    credit, is_copied, is_overwritten = gradient(hardtanh_)
    assert torch.equal(credit, expected)
    assert not is_copied
    assert is_overwritten != is_kept_twice


# pairing


class ByPixels(nn.Module):
    """Calls another function where the image is bright."""

    def forward(self, x):
        return (F.gelu(x) if x.mean() > 0 else F.silu(x)).flatten(1).sum(1)


class Longer(nn.Module):
    def forward(self, x):
        for _ in range(3 if x.mean() > 0 else 2):
            x = torch.tanh(x)
        return x.flatten(1).sum(1)


def test_another_sequence_of_calls_is_an_error_naming_both(x):
    bright, dark = x.abs(), -x.abs()
    with pytest.raises(
        PropagationError, match=r"calls silu \(at .*test_propagation.py.*where the image pass called gelu"
    ):
        DeepLift().attribute(Input(Score(model=ByPixels())), bright, dark)
    with pytest.raises(PropagationError, match="called tanh, the reference pass ended"):
        DeepLift().attribute(Input(Score(model=Longer())), bright, dark)
    with pytest.raises(PropagationError, match=r"calls tanh .* where the image pass called nothing more"):
        DeepLift().attribute(Input(Score(model=Longer())), dark, bright)


class Windows(nn.Module):
    """Puts the windows of an image among the rows, as Swin does."""

    def forward(self, x):
        windows = x.unflatten(2, (3, 4)).movedim(2, 1).flatten(0, 1)
        attended = (windows @ windows.mT).softmax(-1) @ windows
        return attended.unflatten(0, (len(x), 3)).flatten(1).square().sum(1)


def test_a_single_reference_row_is_repeated_where_rows_are_mixed_with_windows(x, baseline):
    site = Input(Score(model=Windows()))
    with lent(RESCALE) as lending:
        site.forward(x, slice(0, 4))
    with pytest.raises(RowsDiffer, match="matmul has shape"), lending.reference():
        site.forward(baseline[:1], slice(0, 1))
    complete(site, x, baseline[:1], DeepLift().attribute(site, x, baseline[:1]))


def test_extra_arguments_have_a_row_for_each_image(x, baseline):
    scale = torch.arange(1.0, 5, dtype=torch.float64)
    site = Input(Score(model=lambda x, s: (F.silu(x) * s[:, None, None, None]).flatten(1).sum(1), arguments=(scale,)))
    complete(site, x, baseline[:1], DeepLift().attribute(site, x, baseline[:1]))


# the audit


@torch.jit.script
def scripted_relu(x):
    return torch.relu(x)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


ESCAPES = {
    "Relu": scripted_relu,
    "Own": Own.apply,
    "Cumprod": lambda x: x.cumprod(1),
    "Sort": lambda x: x.sort(1).values,
    "pow of two activations": lambda x: x.abs() ** x,
    "einsum of 3 activations": lambda x: torch.einsum("nchw,nchw,nchw->nchw", x, x, x),
    "where by a constant that depends": lambda x: torch.where(x > 0, x, 0.1 * x),
    "mul by a constant that depends": lambda x: x * (x > 0),
    "matmul by a constant that depends": lambda x: x @ x.detach().mT,
    "NativeBatchNorm": nn.BatchNorm2d(3, track_running_stats=False, dtype=torch.float64).eval(),
}


@pytest.mark.parametrize("operation", ESCAPES)
def test_what_no_rule_covers_is_an_error_naming_operation_and_place(x, baseline, operation):
    model = lambda x: ESCAPES[operation](x * 1).flatten(1).sum(1)  # noqa: E731
    site = Input(Score(model=model))
    with pytest.raises(
        UncoveredOperationError, match=rf"deep_lift covers .*{operation}.*test_propagation.py, line \d+"
    ):
        DeepLift().attribute(site, x, baseline)


def test_in_a_model_of_torch_modules_the_module_is_named(x, baseline):
    site = Input(
        Score(
            model=nn.Sequential(
                nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(160, 1)
            )
            .double()
            .eval()
        )
    )
    with pytest.raises(UncoveredOperationError, match=r"NativeBatchNorm \(called at .*nn/.*line \d+"):
        DeepLift().attribute(site, x, baseline)


def test_on_request_the_plain_gradient_passes_with_a_warning_that_is_kept(x, baseline):
    model = lambda x: (scripted_relu(x) + F.silu(x)).flatten(1).sum(1)  # noqa: E731
    site = Input(Score(model=model), Passes(2))
    with pytest.warns(UserWarning, match="no rule of deep_lift covers Relu") as caught:
        attribution = DeepLift(on_unruled="gradient").attribute(site, x, baseline)
    assert len(caught) == 1
    assert [message for message in site.passes.warnings if "Relu" in message] == site.passes.warnings
    silu = (F.silu(x) - F.silu(baseline)) / (x - baseline)
    torch.testing.assert_close(attribution, (x - baseline) * (silu + (x > 0)))


def test_lrp_is_audited_too(x):
    site = Input(Score(model=lambda x: scripted_relu(x * 1).flatten(1).sum(1)))
    with pytest.raises(UncoveredOperationError, match="lrp covers Relu"):
        LRP().attribute(site, x)


@pytest.mark.parametrize("method", [GuidedBackprop(), Deconvolution()])
def test_a_model_without_rectifiers_gets_its_gradient_and_a_warning(x, method):
    site = Input(Score(model=lambda x: torch.tanh(x).flatten(1).sum(1)))
    with pytest.warns(UserWarning, match="no rectifier"):
        attribution = method.attribute(site, x)
    assert torch.equal(attribution, site.gradient(x))


def test_through_a_neuron_there_are_no_rules(model, x, target):
    from attribution.through import Through

    with pytest.raises(ModelError, match="gradients, not rules"):
        GuidedBackprop().attribute(Through(Score(model=model, target=target), model.block, (1, 2, 3)), x)


# who sees what


def test_parameters_that_ask_for_gradients_are_constants(model, x, baseline, target):
    """Products with them are linear, and nothing is computed for them."""
    site = Input(Score(model=model, target=target))
    frozen = [asked(method, site, x, baseline) for method in RULED]
    model.requires_grad_(True)
    for method, expected in zip(RULED, frozen, strict=True):
        assert torch.equal(asked(method, site, x, baseline), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_threads_see_nothing(model, x, baseline, target):
    """While one thread holds a pass with rules open, another gets plain gradients and its own rules."""
    site = Input(Score(model=model, target=target))
    plain, guided = site.gradient(x), GuidedBackprop().attribute(site, x)
    inside, done, seen = threading.Event(), threading.Event(), {}

    def other():
        inside.wait(10)
        seen["plain"], seen["guided"] = site.gradient(x), GuidedBackprop().attribute(site, x)
        done.set()

    def waiting(x):
        inside.set()
        done.wait(10)
        return model(x)

    thread = threading.Thread(target=other)
    thread.start()
    mine = DeepLift().attribute(Input(Score(model=waiting, target=target)), x, baseline)
    thread.join()
    assert torch.equal(seen["plain"], plain) and torch.equal(seen["guided"], guided)
    assert torch.equal(mine, DeepLift().attribute(site, x, baseline))


@pytest.mark.parametrize("method", RULED, ids=lambda method: method.method_name())
def test_nothing_is_left_behind_after_an_error(site, model, x, baseline, method, monkeypatch):
    expected, plain = asked(method, site, x, baseline), site.gradient(x)

    def failing(x):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(model.head, "forward", failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        asked(method, site, x, baseline)
    monkeypatch.undo()
    assert torch.equal(asked(method, site, x, baseline), expected)
    assert torch.equal(site.gradient(x), plain)
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("method", RULED, ids=lambda method: method.method_name())
def test_maps_do_not_depend_on_batch_mates(site, x, baseline, method):
    whole = asked(method, site, x, baseline)
    for row in range(4):
        index = torch.tensor([row])
        alone = asked(method, site.rows(index), x[index], baseline[index])
        torch.testing.assert_close(alone, whole[index], rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", RULED, ids=lambda method: method.method_name())
def test_half_precision_models_give_single_precision_maps(model, x, baseline, target, method):
    exact = asked(method, Input(Score(model=model, target=target)), x, baseline)
    half = Input(Score(model=model.bfloat16(), target=target, dtype=torch.bfloat16))
    rough = asked(method, half, x.float(), baseline.float())
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rough.flatten().double(), exact.flatten(), dim=0) > 0.9


def test_a_credit_of_ones_own(site, x, baseline):
    """`compared` hands out multipliers and both ends, for custom attribution functions."""
    got = compared(site, x, [baseline], RESCALE, lambda multiplier, end, start: multiplier * 0 + end - start).features
    assert torch.equal(got, x - baseline)


@pytest.mark.parametrize("method", RULED, ids=lambda method: method.method_name())
def test_also_where_the_caller_has_gradients_switched_off(site, x, baseline, method):
    with torch.no_grad():
        without = asked(method, site, x, baseline)
    assert torch.equal(without, asked(method, site, x, baseline))


def test_no_warnings_in_ordinary_use(site, x, baseline):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in RULED:
            asked(method, site, x, baseline)


@pytest.mark.parametrize("method", [DeepLift, DeepLiftShap, LRP])
def test_an_unknown_choice_is_refused(method):
    with pytest.raises(AttributionError, match="on_unruled='ignore' not understood"):
        method(on_unruled="ignore")
    with pytest.raises(AttributionError, match=r"rule='epsilom'.* epsilon"):
        LRP(rule="epsilom")
