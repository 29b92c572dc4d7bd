"""Metrics against loops from their definitions, against Captum, and in a run: one number per image, its own."""

import pytest
import torch
from asking import ask, images
from torch import nn

from attribution.errors import ExpressionError
from attribution.explain import explain
from attribution.methods.integrated_gradients import IntegratedGradients
from attribution.methods.saliency import Saliency
from attribution.metrics import METRICS, completeness_delta, infidelity, parse_metric, sensitivity_max
from attribution.noise import Draws
from attribution.question import parse
from attribution.site import Input, Score

DRAWS = Draws(3, tuple("abcd"))


@pytest.fixture
def site(model, target):
    return Input(Score(model=model, target=target))


def score(model, target, n, image):
    return model(image[None])[0, target[n]]


def test_infidelity_is_its_definition(model, x, target, site):
    attribution = Saliency(abs=False).attribute(site, x)
    change = [0.2 * DRAWS.normal(x, draw) for draw in range(5)]
    ours = infidelity(
        site.score, site.score(x), attribution, lambda draw: (change[draw], x - change[draw]), n_samples=5
    )
    for n in range(4):
        errors = [
            (attribution[n] * i[n]).sum() - (score(model, target, n, x[n]) - score(model, target, n, x[n] - i[n]))
            for i in change
        ]
        assert ours[n] == pytest.approx(sum(error.item() ** 2 for error in errors) / 5, rel=1e-9)


def test_sensitivity_is_its_definition(site, x):
    def explanation(near):
        return Saliency(abs=False).attribute(site, near)

    moved = [x + 0.3 * DRAWS.box(x, draw) for draw in range(5)]
    ours = sensitivity_max(explanation, explanation(x), lambda draw: moved[draw], n_samples=5)
    for n in range(4):
        changes = [(explanation(near)[n] - explanation(x)[n]).norm() / explanation(x)[n].norm() for near in moved]
        assert ours[n] == pytest.approx(max(change.item() for change in changes), rel=1e-9)


def test_the_completeness_delta_is_its_definition(model, x, baseline, target, site):
    method = IntegratedGradients(n_steps=3)
    attribution = method.attribute(site, x, baseline)
    delta = completeness_delta(method, site, x, attribution, baseline=baseline)
    for n in range(4):
        difference = score(model, target, n, x[n]) - score(model, target, n, baseline[n])
        assert delta[n] == pytest.approx((attribution[n].sum() - difference).item(), abs=1e-12)
    assert completeness_delta(Saliency(), site, x, attribution) is None
    bare = IntegratedGradients(multiply_by_inputs=False)
    assert completeness_delta(bare, site, x, attribution, baseline=baseline) is None


@pytest.mark.captum
@pytest.mark.filterwarnings("ignore")
def test_captum_agrees(model, x, target, site):
    captum = pytest.importorskip("captum.metrics", reason="Captum is the oracle; it comes with the test extra")
    attribution = Saliency(abs=False).attribute(site, x)
    change = 0.2 * DRAWS.normal(x, 0)
    theirs = captum.infidelity(
        model, lambda _: (change, x - change), x, attribution, target=target, n_perturb_samples=1
    )
    ours = infidelity(site.score, site.score(x), attribution, lambda _: (change, x - change), n_samples=1)
    torch.testing.assert_close(ours, theirs.detach())

    def explanation(near):
        return Saliency(abs=False).attribute(site, near)

    theirs = captum.sensitivity_max(
        lambda near: (explanation(*near),), (x,), lambda _: (x + change,), n_perturb_samples=1
    )
    torch.testing.assert_close(
        sensitivity_max(explanation, attribution, lambda _: x + change, n_samples=1), theirs.double()
    )


def test_a_map_of_nothing_has_no_length_to_compare_with():
    x = torch.ones(2, 3)
    assert sensitivity_max(lambda near: near - x, torch.zeros(2, 3), lambda _: x + 0.5).tolist() == pytest.approx(
        [0.75**0.5] * 2
    )


METRIC_VALUES = (parse_metric("infidelity"), parse_metric("sensitivity_max(n_samples=3)"))


@pytest.mark.parametrize(
    "method", ["saliency(abs=False)", "ig(n_steps=2)", "ixg", "deeplift", "ablation", "kernelshap(n_samples=200)"]
)
def test_on_a_linear_model_shares_and_slopes_foretell_all(method):
    if method == "deeplift":
        pytest.importorskip("attribution.methods.deep_lift", reason="another room's method")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 7, 4)).double().eval()
    x = torch.randn(3, 3, 14, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    answer = ask(model, images(x), method, metrics=METRIC_VALUES)
    assert answer.metrics["infidelity"].max() < 1e-6 * model(x).square().max()  # Kernel SHAP's weights leave 1e-5
    if method == "saliency(abs=False)":
        assert answer.metrics["sensitivity_max"].max() < 1e-12  # a constant gradient


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("saliency", {"infidelity", "sensitivity_max"}),
        ("ig(n_steps=2, of='block:1,2,3')", {"infidelity", "sensitivity_max"}),
        ("conductance(n_steps=2, at='block')", {"infidelity", "sensitivity_max"}),
        ("grad_cam(at='tail')", {"sensitivity_max"}),  # one channel foretells nothing about eight
        ("gradshap(noise='smoothgrad(samples=2)')", {"infidelity", "sensitivity_max"}),
    ],
)
def test_in_a_run_each_image_has_its_own(model, x, method, names):
    together = ask(model, images(x), method, metrics=METRIC_VALUES)
    assert set(together.metrics) == names
    (alone,) = explain(
        model, images(x).rows(torch.tensor([2])), [together.question], metrics=METRIC_VALUES, seed=7
    ).answers
    for name in names:
        assert together.metrics[name].shape == (4,) and (together.metrics[name] >= 0).all()
        assert together.metrics[name].count_nonzero() > 0
        torch.testing.assert_close(alone.metrics[name][0], together.metrics[name][2], rtol=1e-9, atol=1e-12)


def test_images_without_a_target_have_no_metrics(model, x):
    labels = torch.tensor([0, -1, 2, -1])
    for method in ("saliency(target='label')", "ig(n_steps=2, target='label')"):
        answer = ask(model, images(x, labels), method, metrics=METRIC_VALUES)
        for values in answer.metrics.values():
            assert values.isnan().tolist() == [False, True, False, True]


@pytest.mark.parametrize("text", ["infidelity", "infidelity(n_samples=3, removed=0.5)", "sensitivity_max(radius=0.1)"])
def test_expressions_round_trip(text):
    assert str(parse_metric(text)) == text
    assert METRICS[parse_metric(text).name] is type(parse_metric(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("infidelty", "metric 'infidelty' not found; nearest: infidelity"),
        ("infidelity(samples=3)", "infidelity has no parameter 'samples'; nearest: n_samples"),
        ("infidelity(removed=1.5)", "a probability between 0 and 1"),
        ("infidelity(regions='gird')", "regions 'gird' not found"),
        ("sensitivity_max(radius=0)", "a positive number"),
        ("sensitivity_max(n_samples=0)", "at least 1"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(ExpressionError, match=message):
        parse_metric(text)


class TestSharedNoise:
    KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")

    def questions(self, inner="gradient_shap(n_samples=2, noise='{}(samples=3, stdev=0.2)')"):
        return [parse(inner.format(kind)) for kind in self.KINDS]

    def test_kinds_that_share_their_copies_have_the_maps_they_have_alone(self, model, x):
        together = explain(model, images(x), self.questions(), seed=7).answers
        for question, answer in zip(self.questions(), together, strict=True):
            (alone,) = explain(model, images(x), [question], seed=7).answers
            assert torch.equal(answer.attribution, alone.attribution)

    def test_three_kinds_take_the_passes_of_one(self, model, x, monkeypatch):
        rows, forward = [], type(model).forward
        monkeypatch.setattr(type(model), "forward", lambda self, x: rows.append(len(x)) or forward(self, x))

        def taken(questions):
            rows.clear()
            for _ in explain(model, images(x), questions).answers:
                pass
            return sum(rows)

        one, three = self.questions()[:1], self.questions()
        assert taken(three) == taken(one)
        other = [*three, parse("gradient_shap(n_samples=2, noise='smoothgrad(samples=4, stdev=0.2)')")]
        assert taken(other) > 2 * taken(one) - 5  # other copies are made anew

    def test_nothing_is_kept_when_all_have_been_answered(self, model, x):
        explanation = explain(model, images(x), self.questions())
        asking = explanation.answers.__reduce__()[1][0].__self__  # what the iterator asks
        held = [len(asking.moments) for _ in explanation.answers]
        assert held == [1, 1, 0]
