"""After success and after an error nothing of the caller's has changed, and two threads may share a model."""

import gc
import threading

import pytest
import torch

from attribution.explain import Images, explain, resolve
from attribution.question import parse

EXPRESSIONS = [
    "saliency",
    'integrated_gradients(n_steps=3, at="block")',
    'gradient_shap(n_samples=2, stdev=0.1, at="tail")',
    "grad_cam",
    'saliency(of="block:1,2,3", noise="smoothgrad(samples=2)")',
    "occlusion(window=6, stride=6)",
    'deep_lift(baseline="blur(2)")',
    'deep_lift(at="tail")',
    'deep_lift_shap(of="block:1,2,3")',
    "guided_backprop",
    'deconvolution(noise="smoothgrad(samples=2)")',
    'lrp(rule="gamma")',
    'conductance(n_steps=2, at="block")',
    'neuron_conductance(n_steps=2, of="stem:1,2,3")',
    'integrated_gradients(tolerance=0.1, max_steps=8, at="tail")',
    'feature_ablation(regions="grid(2)", at="block")',
    'shapley_value_sampling(n_samples=2, regions="grid(2)")',
    'kernel_shap(n_samples=4, regions="grid(2)")',
    'lime(n_samples=4, regions="grid(2)")',
    "guided_grad_cam",
]


def state(model):
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "tensors": [t.clone() for t in model.state_dict().values()],
        "torch": torch.get_rng_state(),
    }


def same(before, after):
    for key in before:
        pairs = zip(before[key], after[key], strict=True)
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs), key


def images(x):
    return Images(x, tuple("abcd"), torch.tensor([0, 1, 2, 3]))


def run(model, x, expression):
    question = resolve(parse(expression), model, x[:1])
    (answer,) = explain(model, images(x), [question], seed=3).answers
    return answer.attribution


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_nothing_remains(model, x, expression, frozen):
    model.requires_grad_(not frozen)
    before, pixels = state(model), x.clone()
    run(model, x, expression)
    same(before, state(model))
    assert torch.equal(x, pixels) and not x.requires_grad


def tensors():
    gc.collect()
    return sum(type(one) is torch.Tensor for one in gc.get_objects())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_pass_is_freed_when_it_is_over(model, x, expression):
    """A node of a graph is C++: a circle through it is one that no garbage collector sees."""
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = True
    run(model, x, expression)  # what is set up on first use
    before = tensors()
    for _ in range(3):
        run(model, x, expression)
    assert tensors() == before


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_nothing_remains_after_an_error(model, x, expression, monkeypatch):
    before, calls = state(model), []
    head = type(model.head).forward
    question = resolve(parse(expression), model, x[:1])

    def failing(self, x):
        calls.append(1)
        if len(calls) > 1 and self is model.head:
            raise RuntimeError("in the middle")
        return head(self, x)

    run(model, x, expression)  # what is set up on first use
    already = tensors()
    monkeypatch.setattr(type(model.head), "forward", failing)
    if "of=" in expression:
        monkeypatch.setattr(
            type(model.block), "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("in the middle"))
        )
    has_one_pass = question.reads_pass or (question.predicts and question.baseline is None)
    calls.extend([1] * has_one_pass)
    with pytest.raises(RuntimeError, match="in the middle"):
        list(explain(model, images(x), [question]).answers)
    monkeypatch.undo()
    same(before, state(model))
    assert tensors() == already


def test_threads_share_a_model(model, x):
    alone = {expression: run(model, x, expression) for expression in EXPRESSIONS}
    wrong = []

    def work(expression):
        for _ in range(5):
            again = run(model, x, expression)
            if again.shape != alone[expression].shape or not torch.allclose(
                again, alone[expression], rtol=0, atol=1e-12
            ):
                wrong.append(expression)

    threads = [threading.Thread(target=work, args=(expression,)) for expression in EXPRESSIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_in_training_mode_is_refused(model, x):
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
        explain(model.train(), images(x), [parse("saliency")])
