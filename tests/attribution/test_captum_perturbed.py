"""Captum's perturbation classes: Captum's numbers for equal draws, masks and windows, and for every kind of forward function."""

import io
import sys

import pytest
import torch
from torch import nn

import attribution
from attribution import (
    FeatureAblation,
    FeaturePermutation,
    KernelShap,
    LayerFeatureAblation,
    LayerFeaturePermutation,
    Lime,
    LimeBase,
    NeuronFeatureAblation,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from attribution.captum_names.lime import Lasso, get_exp_kernel_similarity_function
from attribution.methods.kernel_shap import coalition_sizes
from attribution.noise import Draws

captum = pytest.importorskip("captum.attr", reason="Captum is the oracle; it comes with the test extra")
pytestmark = [pytest.mark.captum, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 2e-6, "atol": 1e-6}  # most of Captum's results here are float32


def same(ours, theirs, **close):
    assert type(ours) is type(theirs)
    for one, other in zip(
        *((given if isinstance(given, tuple) else (given,)) for given in (ours, theirs)), strict=True
    ):
        assert one.shape == other.shape
        torch.testing.assert_close(one.double(), other.double(), **(close or CLOSE))


class Mixed(nn.Module):
    """Two small inputs of different shapes, products between them, three outputs."""

    def forward(self, x, y, gain=1.0):
        columns = [(x * y.sum(1, keepdim=True)).sum(1), (x**2).sum(1), x.prod(1) + y.tanh().sum(1)]
        return torch.stack(columns, 1) * gain


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(4, n, dtype=torch.float64, generator=generator) for n in (3, 2))


MASKS = {
    "none": None,
    "apart": (torch.tensor([[0, 0, 1]]), torch.tensor([[2, 3]])),
    "shared": (torch.tensor([[0, 1, 1]]), torch.tensor([[1, 0]])),
    "gaps": (torch.tensor([[4, 4, 9]]), torch.tensor([[6, 6]])),
    "numbers": (torch.tensor(0), torch.tensor(1)),
    "by row": (torch.tensor([[0, 0, 1], [0, 1, 2], [1, 1, 0], [0, 0, 0]]), torch.tensor([[2, 2]] * 4)),
}
EXACT = ["FeatureAblation", "ShapleyValues"]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("target", [1, [0, 1, 2, 0], None])
def test_masks_and_targets(numbers, name, mask, target):
    """Without a target every output of a row is answered, as Captum lays them out."""
    if target is None and mask is not None and len(mask[0].shape) and len(mask[0]) > 1 and name == "FeatureAblation":
        with pytest.raises(RuntimeError, match="must match"):  # Captum's sum can't be formed; ours are rows and outputs
            captum.FeatureAblation(Mixed()).attribute(numbers, feature_mask=mask)
        assert FeatureAblation(Mixed()).attribute(numbers, feature_mask=mask)[0].shape == (12, 3)
        return
    settings = {"baselines": (0.5, numbers[1][:1]), "target": target, "feature_mask": mask}
    arguments = {"additional_forward_args": torch.arange(1.0, 5).double()[:, None]}
    ours = getattr(attribution, name)(Mixed()).attribute(numbers, **settings, **arguments)
    if mask is MASKS["gaps"]:  # Captum goes through the orders of all numbers in between
        settings["feature_mask"] = (torch.tensor([[0, 0, 2]]), torch.tensor([[1, 1]]))
    same(ours, getattr(captum, name)(Mixed()).attribute(numbers, **settings, **arguments))


FORWARDS = {
    "a number": (lambda x, y: Mixed()(x, y).sum().item(), None),
    "a whole number": (lambda x, y: int(100 * Mixed()(x, y).sum()), None),
    "a tensor without rows": (lambda x, y: Mixed()(x, y).sum(), None),
    "one row": (lambda x, y: Mixed()(x, y).sum().reshape(1), None),
    "a column": (lambda x, y: Mixed()(x, y)[:, :1], None),
    "three for all": (lambda x, y: Mixed()(x, y).sum(0, keepdim=True), None),
    "one of three for all": (lambda x, y: Mixed()(x, y).sum(0, keepdim=True), 1),
    "whole numbers": (lambda x, y: (100 * Mixed()(x, y)).long(), 2),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("forward", "target"), FORWARDS.values(), ids=FORWARDS)
def test_forward_functions(numbers, name, forward, target):
    ours = getattr(attribution, name)(forward).attribute(numbers, target=target)
    theirs = getattr(captum, name)(forward).attribute(numbers, target=target)
    same(ours, theirs)
    if name == "FeatureAblation":
        assert ours[0].dtype == theirs[0].dtype
    if "all" in str(forward) or not isinstance(forward(*numbers), torch.Tensor):
        with pytest.raises(AssertionError, match="perturbations_per_eval must be 1"):
            getattr(attribution, name)(forward).attribute(numbers, target=target, perturbations_per_eval=2)


@pytest.mark.parametrize("name", [*EXACT, "Lime", "FeaturePermutation"])
def test_errors(numbers, name):
    method = getattr(attribution, name)(Mixed())
    with pytest.raises(AssertionError, match="perturbations_per_eval=0"):
        method.attribute(numbers, target=1, perturbations_per_eval=0)
    with pytest.raises(AssertionError, match=r"1 feature mask\(s\) for 2 input"):
        method.attribute(numbers, target=1, feature_mask=torch.tensor([[0, 0, 1]]))
    with pytest.raises(AssertionError, match="does not fit an input"):
        method.attribute(numbers, target=1, feature_mask=(torch.tensor([[0, 0]]), torch.tensor([[0, 1]])))
    with pytest.raises(AssertionError, match="returns a NoneType, not a tensor"):
        getattr(attribution, name)(lambda x, y: None).attribute(numbers)


def test_inputs_of_other_kinds():
    """True or false, whole numbers, and whole numbers with a fraction as baseline."""
    flags = torch.tensor([[True, False, True], [False, True, True]])
    for settings in ({}, {"baselines": True}):
        asked = {name: space.FeatureAblation for name, space in (("ours", attribution), ("theirs", captum))}
        same(*(kind(lambda x: x.double().cumsum(1)).attribute(flags, target=2, **settings) for kind in asked.values()))
    counts = torch.tensor([[-3, 1, 2], [0, 4, 5]])
    for kind in (FeatureAblation, ShapleyValueSampling, Lime, KernelShap):
        assert kind(lambda x: x.sum(1)).attribute(counts, baselines=1).shape == (2, 3)
    fraction = FeatureAblation(lambda x: x.sum(1)).attribute(counts, baselines=0.2)
    same(fraction, counts - 0.2)
    assert FeatureAblation(lambda x: x.sum(1)).attribute(counts).dtype == torch.int64


WINDOWS = {
    "one": ((3, 5, 4), None),
    "strides": ((3, 5, 4), (3, 3, 2)),
    "stride": ((1, 5, 4), 1),
    "wider than the image": ((3, 5, 10), (3, 2, 10)),
}


@pytest.mark.parametrize(("window", "stride"), WINDOWS.values(), ids=WINDOWS)
def test_occlusion(model, x, baseline, window, stride):
    settings = {"strides": stride, "baselines": baseline, "target": [0, 3, 1, 4]}
    ours = Occlusion(model).attribute(x[:, :, :7, :], window, **{**settings, "baselines": baseline[:, :, :7, :]})
    theirs = captum.Occlusion(model).attribute(
        x[:, :, :7, :], window, **{**settings, "baselines": baseline[:, :, :7, :]}
    )
    same(ours, theirs)
    assert ours.dtype == torch.float64  # Captum's is float32


def test_occlusion_of_several_inputs_and_outputs(numbers):
    for settings in ({"target": 1}, {"strides": ((2,), 1), "target": 0}, {"strides": (1, (1,)), "baselines": (1, 0.3)}):
        ours = Occlusion(Mixed()).attribute(numbers, ((2,), (1,)), **settings)
        same(ours, captum.Occlusion(Mixed()).attribute(numbers, ((2,), (1,)), **settings))
    forward = FORWARDS["a tensor without rows"][0]
    same(*(space.Occlusion(forward).attribute(numbers, ((2,), (2,))) for space in (attribution, captum)))
    with pytest.raises(AssertionError, match="a size for each dimension"):
        Occlusion(Mixed()).attribute(numbers, ((2, 1), (1,)), target=1)
    with pytest.raises(AssertionError, match="leaves gaps"):
        Occlusion(Mixed()).attribute(numbers, ((1,), (1,)), strides=(2, 1), target=1)


def reverse(x, mask):
    return torch.where(mask, x.flip(0), x)


@pytest.mark.parametrize("mask", [MASKS["none"], MASKS["apart"], MASKS["shared"]], ids=["none", "apart", "shared"])
def test_permutation_with_a_callers_order(numbers, mask):
    for settings in ({"target": 1}, {"target": [0, 1, 2, 0]}, {}):
        ours = FeaturePermutation(Mixed(), reverse).attribute(numbers, feature_mask=mask, **settings)
        same(ours, captum.FeaturePermutation(Mixed(), reverse).attribute(numbers, feature_mask=mask, **settings))
    forward = FORWARDS["a tensor without rows"][0]
    ours = FeaturePermutation(forward, perm_func=reverse).attribute(numbers, feature_mask=mask)
    same(ours, captum.FeaturePermutation(forward, perm_func=reverse).attribute(numbers, feature_mask=mask))


def test_permutation_shuffles_rows(numbers):
    """Two rows can only change places; one has nothing to change with."""
    two = tuple(part[:2] for part in numbers)
    same(FeaturePermutation(Mixed()).attribute(two, 1), FeaturePermutation(Mixed(), reverse).attribute(two, 1))
    with pytest.raises(AssertionError, match="at least two"):
        FeaturePermutation(Mixed()).attribute(tuple(part[:1] for part in numbers), 1)
    torch.manual_seed(5)
    first = FeaturePermutation(Mixed()).attribute(numbers, 1)
    torch.manual_seed(5)
    same(FeaturePermutation(Mixed()).attribute(numbers, 1), first)


@pytest.mark.parametrize("at_input", [False, True])
def test_layers(model, x, at_input):
    mask = torch.arange(6).reshape(1, 6, 1, 1)
    settings = {"layer_mask": mask, "target": 1, "attribute_to_layer_input": at_input}
    for given in (None, 0.2, torch.zeros(1, 6, 6, 5, dtype=torch.float64)):
        ours = LayerFeatureAblation(model, model.relu2).attribute(x, given, **settings)
        same(ours, captum.LayerFeatureAblation(model, model.relu2).attribute(x, given, **settings))


def test_layers_permuted(model, x):
    """Captum selects the target twice and fails (facts 2.2, row 17); of two rows every order is the other one."""
    mask = torch.arange(6).reshape(1, 6, 1, 1)
    ours = LayerFeaturePermutation(model, model.block).attribute(x[:2], target=1, layer_mask=mask)
    same(ours, captum.LayerFeaturePermutation(lambda x: model(x)[:, 1], model.block).attribute(x[:2], layer_mask=mask))
    by_row = LayerFeatureAblation(model, model.block).attribute(
        x, target=[0, 1, 2, 3], layer_mask=mask, perturbations_per_eval=3
    )
    same(by_row, captum.LayerFeatureAblation(model, model.block).attribute(x, target=[0, 1, 2, 3], layer_mask=mask))


def test_neurons(model, x, baseline):
    mask = (torch.arange(12)[:, None] // 4 * 3 + torch.arange(10) // 4)[None, None]
    for selector in ((1, 2, 3), (slice(0, 3), 1, 1), lambda out: out.amax((1, 2, 3))):
        ours = NeuronFeatureAblation(model, model.block).attribute(x, selector, baseline, feature_mask=mask)
        same(ours, captum.NeuronFeatureAblation(model, model.block).attribute(x, selector, baseline, feature_mask=mask))


# Equal draws: what ours draw for the only row with seed 0 is handed to Captum


def kept(sample, count):
    return (Draws(0, ("0",)).table(torch.tensor([count]), sample) < 0.5).long()


def one_row(numbers):
    return tuple(part[:1] for part in numbers)


@pytest.mark.parametrize("mask", [None, MASKS["shared"]], ids=["none", "shared"])
def test_shapley_sampling_of_equal_orders(numbers, mask):
    inputs, count = one_row(numbers), 5 if mask is None else 2
    theirs = captum.ShapleyValueSampling(Mixed())
    theirs.permutation_generator = lambda _count, samples: [
        Draws(0, ("0",)).table(torch.tensor([count]), sample).argsort(1)[0].tolist() for sample in range(samples)
    ]
    settings = {"baselines": (0.5, 0.1), "feature_mask": mask, "n_samples": 7}
    for target in (1, None):
        ours = ShapleyValueSampling(Mixed()).attribute(inputs, target=target, seed=0, **settings)
        same(ours, theirs.attribute(inputs, target=target, **settings))


@pytest.mark.parametrize("mask", [None, MASKS["shared"]], ids=["none", "shared"])
@pytest.mark.parametrize("kernel", [None, ("euclidean", 0.7)])
def test_lime_of_equal_samples(numbers, mask, kernel):
    from captum.attr._core.lime import get_exp_kernel_similarity_function as theirs_of

    inputs, count = one_row(numbers), 5 if mask is None else 2

    def samples(_inputs, **_extras):
        yield from (kept(sample, count) for sample in range(40))

    own = {} if kernel is None else {"similarity_func": get_exp_kernel_similarity_function(*kernel)}
    other = {} if kernel is None else {"similarity_func": theirs_of(*kernel)}
    settings = {"baselines": (0.5, 0.1), "feature_mask": mask, "n_samples": 40, "target": 1}
    theirs = captum.Lime(Mixed(), perturb_func=samples, **other)
    close = {"rtol": 1e-3, "atol": 1e-3}  # Captum's lasso stops at 1e-4 of the data's spread
    for shape in (True, False):
        ours = Lime(Mixed(), **own).attribute(inputs, return_input_shape=shape, seed=0, **settings)
        same(ours, theirs.attribute(inputs, return_input_shape=shape, **settings), **close)
        # A caller's samples go the other way through the code, row by row
        again = Lime(Mixed(), perturb_func=samples, **own).attribute(inputs, return_input_shape=shape, **settings)
        same(again, ours)


def test_kernel_shap_of_equal_samples(numbers):
    inputs, counts, draws = one_row(numbers), torch.tensor([5]), Draws(0, ("0",))

    def samples(_inputs, **_extras):
        yield torch.ones(1, 5).long()
        yield torch.zeros(1, 5).long()
        for sample in range(18):
            sizes = coalition_sizes(counts, draws.uniform(sample, like=torch.zeros((), dtype=torch.float64)))
            yield (draws.table(counts, sample).argsort(1).argsort(1) < sizes.unsqueeze(1)).long()

    theirs = captum.KernelShap(Mixed())
    theirs.perturb_func = samples
    settings = {"baselines": (0.5, 0.1), "n_samples": 20, "target": 1}
    ours = KernelShap(Mixed()).attribute(inputs, seed=0, **settings)
    same(
        ours, theirs.attribute(inputs, **settings), rtol=1e-4, atol=1e-4
    )  # Captum regresses in float32 with weights of 1e6


@pytest.mark.parametrize("name", ["ShapleyValueSampling", "KernelShap"])
def test_many_samples_are_shapley_values(numbers, name):
    exact = ShapleyValues(Mixed()).attribute(numbers, target=1, feature_mask=MASKS["apart"])
    settings = {"target": 1, "feature_mask": MASKS["apart"], "n_samples": 400, "seed": 1}
    sampled = getattr(attribution, name)(Mixed()).attribute(numbers, **settings)
    same(sampled, exact, rtol=0, atol=0.15)
    for parts in (sampled, exact):  # both hold the sum
        whole = Mixed()(*numbers)[:, 1] - Mixed()(0 * numbers[0], 0 * numbers[1])[:, 1]
        total = parts[0][:, 0] + parts[0][:, 2] + parts[1].sum(1)
        torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ShapleyValueSampling", "Lime", "KernelShap"])
def test_draws_belong_to_rows(numbers, name):
    """Rows one after the other get what they get together; all rows answered together are one row."""
    call = getattr(attribution, name)(Mixed()).attribute
    torch.manual_seed(3)
    together = call(numbers, target=1)
    torch.manual_seed(3)
    alone = [call(tuple(part[i : i + 1] for part in numbers), target=1) for i in range(4)]
    same(tuple(torch.cat(parts) for parts in zip(*alone, strict=True)), together, rtol=1e-9, atol=1e-9)
    whole = getattr(attribution, name)(FORWARDS["a number"][0]).attribute(numbers, seed=1)
    assert [part.shape for part in whole] == [(1, 3), (1, 2)]
    if name != "ShapleyValueSampling":
        with pytest.raises(AssertionError, match="one number for each row, not 3"):
            call(numbers)


def test_lime_base(numbers):
    """Own samples in the inputs' space, an own similarity and an own model, several samples a call."""
    from captum._utils.models.linear_model import SkLearnRidge

    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(1, 3, dtype=torch.float64, generator=generator) for _ in range(30)]

    def asked(space, per_call):
        drawn = iter(noise)
        method = space.LimeBase(
            Mixed(),
            SkLearnRidge(alpha=0.1),
            lambda x, near, _kept, **extras: torch.exp(-extras["width"] * (x - near).norm()),
            lambda x, **_extras: x + next(drawn),
            perturb_interpretable_space=False,
            from_interp_rep_transform=None,
            to_interp_rep_transform=lambda near, _x, **_extras: near,
        )
        inputs, y = numbers[0][:1], numbers[1][:1]
        arguments = {"additional_forward_args": (y, 2.0), "n_samples": 30, "perturbations_per_eval": per_call}
        return method.attribute(inputs, target=[1], width=0.3, **arguments)

    for per_call in (1, 4, 100):
        same(asked(attribution, per_call), asked(captum, per_call), rtol=1e-5, atol=1e-5)
    assert isinstance(Lime(Mixed()), LimeBase)
    with pytest.raises(AssertionError, match="to_interp_rep_transform=None"):
        LimeBase(
            Mixed(),
            None,
            None,
            None,
            perturb_interpretable_space=False,
            from_interp_rep_transform=None,
            to_interp_rep_transform=None,
        )


def test_limes_own_model_is_sklearns_lasso():
    from captum._utils.models.linear_model import SkLearnLasso

    generator = torch.Generator().manual_seed(0)
    features = (torch.rand(60, 4, generator=generator) < 0.5).float()
    output, weight = features @ torch.tensor([1.0, -2.0, 0.0, 0.3]), torch.rand(60, generator=generator)
    ours, theirs = Lasso(0.05), SkLearnLasso(alpha=0.05)
    for model in (ours, theirs):
        model.fit([(features, output, weight)])
    torch.testing.assert_close(ours.representation(), theirs.representation(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="cosine or euclidean"):
        get_exp_kernel_similarity_function("manhattan")


PROGRESS = {
    "FeatureAblation": "Feature Ablation attribution: 100%",
    "ShapleyValueSampling": "Shapley Value Sampling attribution: 100%",
    "ShapleyValues": "Shapley Values attribution: 100%",
    "Lime": "Lime attribution: 100%",
    "KernelShap": "Kernel Shap attribution: 100%",
    "Occlusion": "Occlusion attribution: 100%",
    "FeaturePermutation": "Feature Permutation attribution: 100%",
}


@pytest.mark.parametrize("name", sorted(PROGRESS))
def test_progress(numbers, monkeypatch, name):
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", seen)
    windows = {"sliding_window_shapes": ((1,), (1,))} if name == "Occlusion" else {}
    method = getattr(attribution, name)(Mixed())
    method.attribute(numbers, target=1, **windows)
    assert seen.getvalue() == ""
    method.attribute(numbers, target=1, show_progress=True, **windows)
    steps = [int(part.split("%")[0]) for part in seen.getvalue().split("attribution: ")[1:]]
    assert PROGRESS[name] in seen.getvalue() and steps == sorted(set(steps)) and len(steps) > 2
