"""Convolutions that wait for a sum and a rectifier compute what the model does, and show nobody what is not computed yet."""

from math import inf

import pytest
import torch
from torch import nn
from torch.nn import functional

from attribution import deferred
from attribution.convolutions import fused_conv2d, in_steps
from attribution.deferred import Convolution, Deferred
from attribution.explain import Images, explain, resolve
from attribution.layer import Layer
from attribution.prepare import OWN, prepare
from attribution.question import parse
from attribution.score import Score


class Block(nn.Module):
    """A ResNet's, whose rectifiers are one module, with its sum and its last rectifier as given."""

    def __init__(self, add, rectify=None):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.outer = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.relu = nn.ReLU(inplace=True)
        self.add, self.rectify = add, rectify or self.relu

    def forward(self, x):
        return self.rectify(self.add(self.outer(self.relu(self.inner(x))), x))


def added_in_place(out, x):
    out += x
    return out


class Blocks(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Sequential(*blocks), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def made(*blocks):
    torch.manual_seed(0)
    model = Blocks(*(blocks or (Block(added_in_place), Block(lambda out, x: out + x)))).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.requires_grad_(requires_grad=False)


@pytest.fixture
def images():
    x = torch.randn(3, 3, 10, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Images(x, tuple("abc"), torch.tensor([0, 3, 4]))


def prepared_for(model, images, *texts):
    questions = [resolve(parse(text), model, images.pixels[:1]) for text in texts]
    found = prepare(model, questions, images.pixels[:1])
    assert OWN in found.done
    return found.model, questions


def awaited(model):
    return {name: module.awaits for name, module in model.named_modules() if getattr(module, "awaits", ())}


@pytest.fixture
def asked(monkeypatch):
    """Of each convolution that waited, whether a sum and between which ends a rectifier came with it."""
    calls = []
    monkeypatch.setattr(
        deferred, "fused_conv2d", lambda *args: calls.append((args[7], args[8] is not None)) or fused_conv2d(*args)
    )
    return calls


METHODS = (
    *("saliency", "integrated_gradients(n_steps=3)", "deep_lift", "guided_backprop", "deconvolution", "lrp"),
    *("gradcam(at='blocks.0')", "occlusion(window=4, stride=4)", "conductance(n_steps=2, at='blocks.0.outer')"),
    *(
        "integrated_gradients(n_steps=3, at='blocks.1')",
        "deep_lift(at='blocks.0.inner')",
    ),
)


@pytest.mark.parametrize("text", METHODS)
def test_every_method_says_the_same_of_blocks(text, images):
    model = made()
    ours, questions = prepared_for(model, images, text)
    if "lrp" not in text:
        assert awaited(ours)
    maps = [next(iter(explain(each, images, questions).answers)).attribution for each in (ours, model)]
    torch.testing.assert_close(*maps, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("add", "rectify", "ends"),
    [
        (added_in_place, nn.ReLU(), (0, inf)),
        (lambda out, x: out + x, functional.relu, (0, inf)),
        (torch.add, torch.relu, (0, inf)),
        (lambda out, x: torch.add(out, other=x, alpha=1), nn.ReLU6(), None),
        (lambda out, x: out.add_(x), nn.ReLU(), None),
        (lambda out, x: out + x, nn.ReLU6(inplace=True), (0, 6)),
        (lambda out, x: out + x, nn.Hardtanh(-0.5, 0.5), (-0.5, 0.5)),
        (lambda out, x: out + x, lambda y: functional.hardtanh(y, -0.5, 0.5), (-0.5, 0.5)),
        (lambda out, x: out + x, functional.relu_, (0, inf)),
    ],
)
def test_sums_and_rectifiers_are_known_by_any_name(add, rectify, ends, images, asked):
    """Where the spelling is not, the value is computed and the model's own call made."""
    model = made(Block(add, rectify))
    ours, _ = prepared_for(model, images, "saliency")
    asked.clear()
    leaves = [images.pixels.clone().requires_grad_() for _ in range(2)]
    told = [f(leaf) for f, leaf in zip((ours, model), leaves, strict=True)]
    torch.testing.assert_close(*told, rtol=0, atol=1e-13)
    slopes = [torch.autograd.grad(y[:, 1].sum(), leaf)[0] for y, leaf in zip(told, leaves, strict=True)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-13)
    assert asked == [((0, inf), False), (ends, ends is not None)]


def test_a_sum_that_nothing_rectifies_comes_with_its_convolution(images, asked):
    ours, _ = prepared_for(made(Block(added_in_place, nn.Tanh())), images, "saliency")
    assert awaited(ours) == {"blocks.0.outer.0": ("add",)}
    asked.clear()
    ours(images.pixels)
    assert asked == [((0, inf), False), (None, True)]


class TwiceRead(Block):
    """What comes before the sum or the rectifier is needed once more."""

    def forward(self, x):
        out = self.outer(self.relu(self.inner(x)))
        total = out + x
        return self.rectify(total) + total - out


class Shifted(Block):
    """A sum with what is the same for all images, and one with a number."""

    def forward(self, x):
        return self.relu(self.outer(self.relu(self.inner(x) + 1)) + x[:1].detach())


@pytest.mark.parametrize(("kind", "waiting"), [(TwiceRead, {"blocks.0.inner.0"}), (Shifted, {"blocks.0.outer.0"})])
def test_what_others_read_or_what_is_no_sum_of_likes_does_not_wait_or_is_right_all_the_same(kind, waiting, images):
    model = made(kind(added_in_place))
    ours, _ = prepared_for(model, images, "saliency")
    assert set(awaited(ours)) == waiting  # one image looks like the sum of likes: found out when more come
    torch.testing.assert_close(ours(images.pixels), model(images.pixels), rtol=0, atol=1e-13)


def test_what_a_run_names_waits_for_nothing(images):
    """A norm's output is the module's that holds it, too: whoever looks there finds a tensor."""
    for at in ("blocks.0.outer", "blocks.0.outer.1"):
        ours, _ = prepared_for(made(), images, f"input_x_gradient(at='{at}')")
        assert "blocks.0.outer.0" not in awaited(ours)
        assert "blocks.1.outer.0" in awaited(ours)


class Overwriting(Block):
    def forward(self, x):
        out = self.inner(x)
        x.mul_(2)
        return self.relu(out)


def test_a_model_that_writes_over_what_a_convolution_has_read_is_left_as_it_is(images):
    model = made(Overwriting(added_in_place))
    found = prepare(model, [resolve(parse("saliency"), model, images.pixels[:1])], images.pixels[:1])
    assert OWN not in found.done
    torch.testing.assert_close(found.model(images.pixels), model(images.pixels), rtol=0, atol=1e-13)


def test_whoever_meets_a_deferred_output_unforeseen_gets_the_tensor():
    given = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(requires_grad=False)
    x = torch.randn(2, 3, 6, 5)

    def fresh():
        found = Convolution.of(given, awaits=("add", "relu"))(x)
        assert isinstance(found, Deferred)
        return found

    y = given(x)
    assert fresh().shape == y.shape
    for f in (
        *(torch.tanh, lambda d: d * 2, lambda d: 2 - d, lambda d: -d, lambda d: d[0], lambda d: d.mean((2, 3))),
        *(lambda d: torch.cat([d, d]), lambda d: functional.conv2d(d, torch.ones(1, 4, 1, 1)), lambda d: d > 0),
        *(functional.relu, lambda d: d + 1, lambda d: torch.stack((d, y)), lambda d: (d + y) * 2, lambda d: y - d),
    ):
        torch.testing.assert_close(f(fresh()), f(y), rtol=1e-6, atol=1e-6)
    total = fresh() + y  # not computed yet
    assert isinstance(total, Deferred)
    assert torch.equal(functional.relu(total, inplace=True), total.value)  # as written over


def test_what_comes_before_a_layer_is_recorded_with_blocks(images):
    """Answered from the record, which holds no output that is not computed."""
    ours, _ = prepared_for(made(), images, "input_x_gradient(at='blocks.1')")
    layer = Layer(Score(model=ours, target=images.labels), ours.blocks[1])
    tail = layer.tail(images.pixels)
    features = layer.features(images.pixels)
    torch.testing.assert_close(tail.score(features), layer.score(images.pixels), rtol=0, atol=1e-13)
    assert tail.path == "replay"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ends", [None, (0, inf), (0, 6), (-0.2, 0.4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_sum_comes_with_the_convolution_in_any_layout(ends, dtype, layout):
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((2, 8, 9, 7), (6, 8, 3, 3), (6,)))
    added = torch.randn(2, 6, 9, 7).to(dtype, memory_format=layout)
    kept = added.clone()
    rest = (1, 1), (1, 1), (1, 1), 1, ends, added
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=memory_format)
        # bfloat16 rounds once where torch does three times
        tolerance = 0.1 if dtype is torch.bfloat16 else 1e-6
        one, other = (f(given, weight, bias, *rest) for f in (fused_conv2d, in_steps))
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert torch.equal(added, kept)


class Keyworded(Block):
    """Its projection is called by the names of its arguments."""

    def __init__(self, add):
        super().__init__(add)
        self.project = Projection()

    def forward(self, x):
        return self.relu(self.project(y=self.relu(self.inner(x))) + x)


class Projection(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(6, 6, 1)

    def forward(self, *, y):
        return self.convolution(y)


def test_a_named_module_may_be_called_by_keyword(images):
    ours, _ = prepared_for(made(Keyworded(added_in_place)), images, "input_x_gradient(at='blocks.0.project')")
    assert "blocks.0.project.convolution" not in awaited(ours)
