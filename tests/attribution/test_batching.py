"""The map of an image is its own: alone, in any batch, in any order, in passes of any size."""

import pytest
import torch

from attribution.explain import Images, Normalisation, explain, resolve
from attribution.question import parse

EXPRESSIONS = [
    "saliency",
    "input_x_gradient",
    'integrated_gradients(n_steps=3, baseline="noise")',
    'integrated_gradients(n_steps=3, at="block")',
    'gradient_shap(n_samples=3, stdev=0.2, baseline="black,blur(2),noise")',
    "occlusion(window=5, stride=3)",
    "grad_cam",
    'saliency(noise="vargrad(samples=3)")',
    'gradient_shap(noise="smoothgrad(samples=2)")',
    'integrated_gradients(n_steps=3, of="block:1,2,3")',
    'deep_lift(baseline="blur(2)")',
    'deep_lift(at="tail")',
    'deep_lift_shap(of="block:1,2,3")',
    "guided_backprop",
    'deconvolution(noise="smoothgrad(samples=2)")',
    'lrp(rule="gamma")',
]


def images(x, labels=(0, 1, 2, 3)):
    return Images(x, ("ant", "bee", "cat", "dog"), torch.tensor(labels), Normalisation((0.4,) * 3, (0.2,) * 3))


def ask(model, images, expressions, **settings):
    questions = [resolve(parse(text), model, images.pixels[:1]) for text in expressions]
    return [answer.attribution for answer in explain(model, images, questions, seed=7, **settings).answers]


@pytest.mark.parametrize("rows_per_pass", [1, 3, 16])
def test_maps_do_not_depend_on_the_pass(model, x, rows_per_pass):
    for whole, cut in zip(
        ask(model, images(x), EXPRESSIONS), ask(model, images(x), EXPRESSIONS, rows_per_pass=rows_per_pass), strict=True
    ):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)  # float64 sums in another order


def test_maps_do_not_depend_on_batch_mates_or_order(model, x):
    order = torch.tensor([2, 0, 3])
    for whole, some in zip(
        ask(model, images(x), EXPRESSIONS), ask(model, images(x).rows(order), EXPRESSIONS), strict=True
    ):
        torch.testing.assert_close(some, whole[order], rtol=0, atol=1e-12)


def test_equal_passes_give_bit_identical_maps_in_float32(model, x):
    """With rows_per_pass fixed, the last pass is padded and an image's bits do not depend on how many others there are."""
    model, x = model.float(), x.float()
    whole = ask(model, images(x), EXPRESSIONS, rows_per_pass=2)
    alone = ask(model, images(x).rows(torch.tensor([2])), EXPRESSIONS, rows_per_pass=2)
    for several, one in zip(whole, alone, strict=True):
        assert torch.equal(several[2:3], one)


def test_methods_of_one_run_do_not_change_each_other(model, x):
    together = ask(model, images(x), EXPRESSIONS)
    for expression, mixed in zip(EXPRESSIONS, together, strict=True):
        (alone,) = ask(model, images(x), [expression])
        assert torch.equal(alone, mixed), expression


def test_an_image_without_a_label_is_not_answered_for_its_label(model, x):
    questions = [parse('saliency(target="label")'), parse('occlusion(window=6, stride=6, target="label")')]
    for answer in explain(model, images(x, (0, -1, 2, -1)), questions).answers:
        assert answer.answered.tolist() == [True, False, True, False]
        assert answer.target.tolist() == [0, -1, 2, -1]
        assert answer.attribution[1].isnan().all() and answer.target_probability[1].isnan()
        assert not answer.attribution[[0, 2]].isnan().any()


def test_running_out_of_memory_halves_the_pass_and_marks_it(model, x, monkeypatch):
    from attribution.passes import Passes

    whole = ask(model, images(x), ["saliency"])[0]
    forward = type(model).forward

    def forward_in_little_memory(self, x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("faked")
        return forward(self, x)

    monkeypatch.setattr(type(model), "forward", forward_in_little_memory)
    passes = Passes(4)
    (answer,) = explain(model, images(x), [parse("saliency")], passes=passes).answers
    torch.testing.assert_close(answer.attribution, whole, rtol=0, atol=1e-12)
    assert passes.shrunk and passes.rows_per_pass == 2
