"""Convolutions of our own compute what torch's do, rectifiers included, and stand where that is what the model does."""

from itertools import product
from math import inf

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attribution import convolutions
from attribution.convolutions import can_fuse, fused_conv2d, in_steps
from attribution.deferred import Convolution
from attribution.explain import Images, explain, resolve
from attribution.geometry import Geometry
from attribution.layer import Layer
from attribution.phases import Phases
from attribution.prepare import OWN, prepare
from attribution.question import parse
from attribution.score import Score

GEOMETRIES = [
    *product([(3, 3), (7, 7), (2, 3), (1, 1)], [(2, 2), (3, 2), (4, 4)], [(0, 0), (1, 1), (3, 2)]),
    ((3, 3), (1, 1), (1, 1)),
    ((5, 3), (1, 2), (2, 0)),
]
ENDS = [None, (0, inf), (0, 0.3), (-0.2, 0.4)]


def convolution(size, stride, padding, channels=3, **settings):
    torch.manual_seed(0)
    made = nn.Conv2d(channels, 6, size, stride, padding, **settings)
    return made.double().eval().requires_grad_(requires_grad=False)


def plain(given, x, ends):
    y = given(x)
    return y if ends is None else functional.hardtanh(y, *ends)


def both_and_slopes(given, x, ends):
    """What torch and what we make of x, and the derivatives of an uneven sum by it."""
    ours = Convolution.of(given, ends)
    told = []
    for function in (lambda leaf: plain(given, leaf, ends), ours):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
        told += [y.detach(), torch.autograd.grad((y * weights).sum(), leaf)[0]]
    theirs, slope, mine, my_slope = told
    return (mine, theirs), (my_slope, slope)


@pytest.mark.parametrize("extent", [(17, 20), (16, 16), (23, 9)])
@pytest.mark.parametrize(("size", "stride", "padding"), GEOMETRIES)
def test_output_and_gradient_are_torchs_for_any_geometry(size, stride, padding, extent):
    x = torch.randn(2, 3, *extent, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ends in ENDS:
        for ours, theirs in both_and_slopes(convolution(size, stride, padding), x, ends):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("settings", [{"groups": 3}, {"dilation": 2}, {"channels": 8}, {"bias": False}])
def test_so_they_are_where_the_gradient_is_left_to_torch(settings):
    channels = settings.get("channels", 3)
    x = torch.randn(2, channels, 14, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, theirs in both_and_slopes(convolution(3, 2, 1, **settings), x, (0, 0.3)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("side", [(1, 0, 1, 0), (0, 1, 0, 1), (2, 2, 1, 1)])
def test_zeros_around_a_kernel_cost_no_phases(side):
    """A padding that was folded has left them there."""
    wide, narrow = convolution(3, 2, 1), convolution(3, 2, 1)
    wide.weight = nn.Parameter(functional.pad(narrow.weight, side), requires_grad=False)
    geometry = Geometry((2, 2), (1, 1), (1, 1), 1)
    of_both = [Phases.of(each.weight, geometry).kernel.shape[2:].numel() for each in (wide, narrow)]
    assert of_both[0] <= of_both[1] * 2
    x = torch.randn(2, 3, 16, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, theirs in both_and_slopes(wide, x, None):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.skipif(not can_fuse(), reason="this torch was built without oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ends", ENDS[1:])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_pass_is_the_two_of_torch(ends, dtype, layout):
    x = torch.randn(2, 3, 20, 21, generator=torch.Generator().manual_seed(1)).to(dtype, memory_format=layout)
    given = convolution(3, 2, 1).to(dtype)
    fused = Convolution.of(given, ends)(x)
    # of one sum rounded once, or in bfloat16 before and after the ends, which are rounded then too
    tolerance = 1e-6 if dtype is torch.float32 else 0.01
    torch.testing.assert_close(fused, plain(given, x, ends), rtol=tolerance, atol=tolerance)


def test_without_onednn_the_steps_are_taken_one_by_one(monkeypatch):
    monkeypatch.setattr(convolutions, "can_fuse", lambda: False)
    x, given = torch.randn(2, 3, 12, 12), convolution(3, 2, 1).float()
    torch.testing.assert_close(Convolution.of(given, (0, 6))(x), functional.relu6(given(x)), rtol=0, atol=0)


class Small(nn.Module):
    """Convolutions that can do more than convolve, and others that must not."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.middle, self.after_sum, self.also_alone = nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)
        self.inner, self.outer = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.between, self.narrow = nn.Conv2d(8, 8, 1), nn.Hardtanh(-0.5, 0.5)
        self.read_twice, self.relu6 = nn.Conv2d(8, 8, 1), nn.ReLU6()
        self.twice, self.hardtanh = nn.Conv2d(8, 8, 1), nn.Hardtanh(-0.5, 0.5)
        self.reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.relu(self.norm(self.stem(x)))
        z = self.outer(self.relu(self.inner(y)))
        z += y
        z = self.middle(self.after_sum(z))  # the sum lies where the convolution's output lay
        z = self.after_sum(self.also_alone(z))  # a module that is called for a sum, too, has to stay
        z = self.narrow(self.between(z))
        z = self.read_twice(z)
        z = self.relu6(z) + z
        z = self.hardtanh(self.twice(self.hardtanh(self.twice(z))))
        return self.head(self.relu6(self.reflecting(z)).mean((2, 3)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = Small().double().eval().requires_grad_(requires_grad=False)
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def images():
    x = torch.randn(3, 3, 20, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Images(x, tuple("abc"), torch.zeros(3, dtype=torch.int64))


def asked(model, images, *texts):
    return [resolve(parse(text), model, images.pixels[:1]) for text in texts]


PLAIN = {"stem", "inner", "outer", "middle", "also_alone", "between", "read_twice"}


def owned(model):
    return {name for name, module in model.named_modules() if isinstance(module, Convolution)}


def test_only_what_a_rectifier_alone_reads_is_rectified_by_its_convolution(small, images):
    prepared = prepare(small, asked(small, images, "saliency"), images.pixels[:1])
    assert OWN in prepared.done
    assert {name for name in owned(prepared.model) if prepared.model.get_submodule(name).ends} == {
        "stem",
        "inner",
        "between",
    }
    assert owned(prepared.model) == PLAIN
    assert isinstance(prepared.model.relu, nn.Identity)
    assert isinstance(prepared.model.after_sum, nn.ReLU)
    torch.testing.assert_close(prepared.model(images.pixels), small(images.pixels), rtol=0, atol=1e-13)


@pytest.mark.parametrize("at", ["inner", "outer"])
def test_a_layer_that_the_run_names_stays_as_it_is(small, images, at):
    prepared = prepare(small, asked(small, images, f"input_x_gradient(at='{at}')"), images.pixels[:1])
    assert owned(prepared.model) == PLAIN - {at}
    # and a rectifier that it shares with others, which are not theirs then
    assert isinstance(prepared.model.relu, nn.ReLU if at == "inner" else nn.Identity)


def test_what_comes_between_a_convolution_and_a_rectifier_is_seen_where_the_run_names_it(small, images):
    prepared = prepare(small, asked(small, images, "input_x_gradient(at='norm')"), images.pixels[:1])
    assert prepared.model.stem.ends is None
    assert isinstance(prepared.model.relu, nn.ReLU)


@pytest.mark.parametrize(
    "text",
    [
        *("saliency", "integrated_gradients(n_steps=3)", "deep_lift", "guided_backprop", "deconvolution", "lrp"),
        *("gradcam", "occlusion(window=4, stride=4)", "conductance(n_steps=2, at='outer')"),
        "integrated_gradients(n_steps=3, at='outer')",
    ],
)
def test_every_method_says_the_same_of_it(small, images, text):
    questions = asked(small, images, text)
    prepared = prepare(small, questions, images.pixels[:1])
    assert owned(prepared.model)
    ours, theirs = (next(iter(explain(m, images, questions).answers)) for m in (prepared.model, small))
    torch.testing.assert_close(ours.attribution, theirs.attribution, rtol=0, atol=1e-12)


def test_modes_see_a_call_for_each_convolution(small, images):
    class Names(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            names.append(function.__name__)
            return function(*args, **(kwargs or {}))

    names: list[str] = []
    model = prepare(small, [], images.pixels[:1]).model
    with Names(), torch.no_grad():
        model(images.pixels)
    assert names.count("fused_conv2d") == 3
    assert names.count("conv2d") == 7  # one twice, and one that reflects
    assert not any("convolution" in name for name in names)


def test_in_steps_it_is_the_same():
    x, given = torch.randn(2, 3, 12, 12), convolution(3, 2, 1).float()
    geometry = given.stride, given.padding, given.dilation, given.groups
    for ends in ((0, 6), (0, inf), (-0.2, 0.4)):
        one, two = (f(x, given.weight, given.bias, *geometry, ends, None) for f in (fused_conv2d, in_steps))
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_what_comes_before_a_layer_is_recorded_with_them(small, images):
    """Answered from the record, module by module, or the whole model would run for every step."""
    prepared = prepare(small, asked(small, images, "input_x_gradient(at='reflecting')"), images.pixels[:1]).model
    layer = Layer(Score(model=prepared, target=images.labels), prepared.reflecting)
    features = layer.features(images.pixels)
    tail = layer.tail(images.pixels)
    torch.testing.assert_close(tail.score(features), layer.score(images.pixels), rtol=0, atol=1e-13)
    assert tail.path == "replay"


@pytest.mark.parametrize("ends", [None, (0, 6)])
def test_the_input_need_not_be_held_for_the_gradient(ends):
    held = []
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    given = convolution(3, 2, 1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        y = Convolution.of(given, ends)(x)
    assert [t.shape for t in held] == [given.weight.shape, *([] if ends is None else [y.shape])]
