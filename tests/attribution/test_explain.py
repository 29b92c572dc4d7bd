"""Explaining a batch: predictions, targets, automatic layers, and one pass shared by all who can read it."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from attribution.errors import LayerError, TargetError
from attribution.explain import Images, explain, output_shape, resolve
from attribution.metrics import parse_metric
from attribution.question import parse


def images(x):
    return Images(x, tuple("abcd"), torch.tensor([4, 0, 1, 2]))


@pytest.fixture
def counted(model, monkeypatch):
    """How many forward passes the model has made."""
    calls, forward = [], type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    return calls


def test_prediction_and_probability(model, x):
    told = explain(model, images(x), [])
    expected = model(x).softmax(1).max(1)
    assert torch.equal(told.prediction, expected.indices)
    torch.testing.assert_close(told.probability.double(), expected.values, atol=1e-6, rtol=0)  # float32 for display


@pytest.mark.parametrize(("target", "rank"), [("predicted", 0), ("top1", 0), ("top3", 2)])
def test_ranked_targets(model, x, target, rank):
    (answer,) = explain(model, images(x), [parse(f"saliency(target='{target}')")]).answers
    assert torch.equal(answer.target, model(x).sort(descending=True).indices[:, rank])
    expected = model(x).softmax(1).sort(descending=True).values[:, rank]
    torch.testing.assert_close(answer.target_probability, expected)


def test_label_and_class_targets(model, x):
    label, fixed = explain(
        model, images(x), [parse("ig(n_steps=2, target='label')"), parse("saliency(target=3)")]
    ).answers
    assert label.target.tolist() == [4, 0, 1, 2]
    assert fixed.target.tolist() == [3, 3, 3, 3]


def test_a_class_that_the_model_lacks_is_named(model, x):
    with pytest.raises(TargetError, match="target 9 is not one of the model's 5 classes"):
        explain(model, images(x), [parse("saliency(target=9)")])


def test_one_forward_serves_all_that_read_a_pass(model, x, counted):
    expressions = ["saliency", "ixg", "gradcam(at='tail')", "ixg(at='block')", "saliency(target='label')"]
    answers = list(explain(model, images(x), [parse(text) for text in expressions]).answers)
    assert len(answers) == 5
    assert counted == [4]


class Stems(TorchDispatchMode):
    """The rows of each pass through the first convolution, as far as one is computed and not answered from a recording."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default and args[1].shape[1] == 3:
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


WALKERS = ["ig(n_steps=3, at='block')", "feature_ablation(at='block', regions='grid(2)', target='label')"]


@pytest.mark.parametrize("text", WALKERS)
def test_what_comes_before_a_layer_is_passed_once_and_predicts(model, x, text):
    with Stems() as stems:
        told = explain(model, images(x), [parse(text)])
        list(told.answers)
    first, *others = stems.rows
    assert first == 4
    assert set(others) == {1}  # the baseline that all images share
    assert torch.equal(told.prediction, model(x).argmax(1))


@pytest.mark.parametrize("text", WALKERS)
def test_a_recording_that_predicts_changes_no_map(model, x, text):
    alone = next(iter(explain(model, images(x), [parse(text)], rows_per_pass=3).answers))
    # beside a question that reads the first pass, the layer is recorded for its own question
    *_, beside = explain(model, images(x), [parse("saliency"), parse(text)], rows_per_pass=3).answers
    assert torch.equal(alone.target, beside.target)
    torch.testing.assert_close(alone.attribution, beside.attribution, rtol=0, atol=1e-12)
    unlabelled = Images(x, tuple("abcd"), torch.tensor([4, -1, 1, 2]))
    (some,) = explain(model, unlabelled, [parse(text)], rows_per_pass=3).answers
    torch.testing.assert_close(some.attribution[some.answered], alone.attribution[some.answered], rtol=0, atol=1e-12)


def test_a_model_that_returns_no_logits_is_refused_at_a_layer_too(model, x):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = model

        def forward(self, x):
            return {"logits": self.block(x)}

    with pytest.raises(TargetError, match=r"the model returns dict, not \(images, classes\)"):
        explain(Named().eval(), images(x), [parse(WALKERS[0])])


def test_conductance_through_a_neuron_has_the_score_s_target(model, x):
    (answer,) = explain(model, images(x), [parse("neuron_conductance(of='tail:3,2,3', target='label')")]).answers
    assert answer.target.tolist() == [4, 0, 1, 2]
    (other,) = explain(model, images(x), [parse("neuron_conductance(of='tail:3,2,3', target='1')")]).answers
    assert not torch.equal(answer.attribution[0], other.attribution[0])
    assert torch.equal(answer.attribution[2], other.attribution[2])


def test_a_score_of_one_s_own_takes_the_target_s_place(model, x):
    (answer,) = explain(
        model, images(x), [parse("saliency(abs=False)")], score=lambda output: output[:, 1] - output[:, 2]
    ).answers
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    (expected,) = torch.autograd.grad((output[:, 1] - output[:, 2]).sum(), leaf)
    torch.testing.assert_close(answer.attribution, expected)
    assert (answer.target == -1).all()


def test_grad_cam_s_layer_is_the_last_convolution_with_places(model, x):
    assert str(resolve(parse("gradcam"), model, x[:1])) == 'grad_cam(at="tail")'


def test_convolutions_on_pooled_features_are_passed_over(x):
    class Excites(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.excite, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

        def forward(self, x):
            x = self.body(x)
            return self.head((x * self.excite(x.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)))

    assert resolve(parse("gradcam"), Excites().double().eval(), x[:1]).at == "body"


def test_unknown_layers_and_neurons_are_named(model, x):
    with pytest.raises(LayerError, match="layer 'blok' not found; nearest: block"):
        resolve(parse("ig(at='blok')"), model, x[:1])
    with pytest.raises(LayerError, match=r"neuron 9,0,0 does not exist in a layer of shape \(6, 6, 5\)"):
        resolve(parse("ig(of='block:9,0,0')"), model, x[:1])
    with pytest.raises(LayerError, match=r"grad_cam.*does not fit an activation of shape"):
        resolve(parse("gradcam(at='head')"), model, x[:1])


@pytest.mark.parametrize(
    "text", ["saliency", "gradcam(at='tail')", "ixg(at='block')", "ig(n_steps=2, of='block:1,2,3')"]
)
def test_the_shape_is_known_before_the_map(model, x, text):
    question = resolve(parse(text), model, x[:1])
    (answer,) = explain(model, images(x), [question]).answers
    assert output_shape(question, model, x[:1]) == tuple(answer.attribution.shape[1:])


@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (5, 7, 8)), ("NLC", (36, 8)), ("NLC", (37, 8))])
def test_grad_cam_on_other_layouts_is_the_map_of_the_same_numbers(layout, shape):
    from attribution.methods.grad_cam import GradCam
    from attribution.site import Point

    activation, gradient = torch.randn(2, *shape).double(), torch.randn(2, *shape).double()

    class Told:
        def at(self, _x):
            return Point(torch.zeros(2), activation, gradient)

    ours = GradCam(relu=False, layout=layout).attribute(Told(), None)
    if layout == "NLC":
        activation, gradient = (t[:, -36:].reshape(2, 6, 6, 8) for t in (activation, gradient))
    weights = gradient.mean((1, 2), keepdim=True)
    torch.testing.assert_close(ours[:, 0], (weights * activation).sum(-1))


# one pass, many readers: a method with rules makes the prediction's pass its own


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guided_backprop", [4]),
        ("deconvolution(target='label')", [4]),
        ("lrp", [4]),
        ("deep_lift", [4, 1]),  # the image, and the reference once for all
        ("deep_lift_shap", [4, 1, 1]),
        ("activation(at='block')", [4]),
        ("guided_grad_cam(at='block')", [4, 4]),  # plain gradients for the layer, guided ones for the image
    ],
)
def test_no_pass_only_to_predict(model, x, counted, text, expected):
    question = resolve(parse(text), model, x[:1])
    counted.clear()
    told = explain(model, images(x), [question])
    (answer,) = told.answers
    assert counted == expected
    probability, prediction = model(x).softmax(1).max(1)
    assert torch.equal(told.prediction, prediction)
    torch.testing.assert_close(told.probability, probability.float())
    # beside a question that reads the plain pass it is asked with the target known: the same map
    *_, beside = explain(model, images(x), [parse("saliency"), question]).answers
    torch.testing.assert_close(answer.attribution, beside.attribution, rtol=0, atol=1e-12)
    assert torch.equal(answer.target, beside.target)
    if answer.convergence_delta is not None:
        torch.testing.assert_close(answer.convergence_delta, beside.convergence_delta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", ["deep_lift", "guided_backprop"])
def test_a_leading_question_answers_only_images_with_a_label(model, x, text):
    labelled = Images(x, tuple("abcd"), torch.tensor([0, -1, 2, -1]))
    (answer,) = explain(model, labelled, [parse(f"{text}(target='label')")], rows_per_pass=3).answers
    assert answer.answered.tolist() == [True, False, True, False]
    assert answer.attribution[1::2].isnan().all()
    assert not answer.attribution[::2].isnan().any()


def test_the_reference_goes_forward_once_for_all_passes(model, x, counted):
    (answer,) = explain(model, images(x), [parse("deep_lift")], rows_per_pass=1).answers
    assert counted == [1, 1, 1, 1, 1]
    (whole,) = explain(model, images(x), [parse("deep_lift")]).answers
    torch.testing.assert_close(answer.attribution, whole.attribution, rtol=0, atol=1e-12)
    torch.testing.assert_close(answer.convergence_delta, whole.convergence_delta, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "metrics", "coalitions"),
    [
        ("shapley_values(regions='grid(2)')", [], 14),
        ("shapley_value_sampling(n_samples=2, regions='grid(2)')", [], 6),
        ("kernel_shap(n_samples=9, regions='grid(2)')", [], 7),
        ("saliency", ["infidelity(n_samples=3)"], 3),
    ],
)
def test_the_whole_image_is_the_prediction_s_and_a_shared_baseline_is_passed_once(
    model, x, counted, text, metrics, coalitions
):
    told = explain(model, images(x), [parse(text)], metrics=[parse_metric(text) for text in metrics])
    list(told.answers)
    assert sorted(counted) == [*([] if metrics else [1]), *[4] * (1 + coalitions)]
