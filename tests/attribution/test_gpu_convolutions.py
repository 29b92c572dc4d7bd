"""Convolutions as kernels of ours are those of the model: those for a GPU, in three arithmetics, by Triton's interpreter here and by
a GPU where there is one; and by products of tiles where cores have them."""

from inspect import signature
from itertools import cycle, product
from math import inf

import pytest
import torch
from interpreting import (
    INTERPRETED,
    ON_A_GPU,
    ON_TILES,
    interpreted_convolutions,
    needs_gpu,
    needs_triton,
    told_by_kernels_and_without,
)
from torch import nn
from torch.nn import functional

from attribution import convolutions, cores
from attribution import prepare as prepare_module
from attribution.arithmetic import arithmetic, bfloat16_gradients
from attribution.convolutions import Convolved, conv2d, fused_conv2d, in_steps
from attribution.deferred import Convolution
from attribution.derived import Derived
from attribution.explain import resolve
from attribution.geometry import Geometry
from attribution.hooks import Place, visiting
from attribution.layer import Layer
from attribution.prepare import as_by_torch, prepare
from attribution.question import parse
from attribution.score import Score

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, which the interpreter uses

# in channels, out channels, rows, columns, kernel, geometry
SHAPES = [
    (16, 24, 7, 9, (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
    (24, 40, 6, 5, (3, 3), Geometry((1, 1), (1, 1), (1, 1), 1)),
    (16, 16, 7, 8, (3, 3), Geometry((2, 2), (1, 1), (1, 1), 1)),
    (16, 8, 8, 7, (1, 1), Geometry((2, 2), (0, 0), (1, 1), 1)),
    (10, 6, 8, 7, (3, 2), Geometry((3, 1), (1, 0), (1, 1), 1)),
    (16, 24, 9, 9, (3, 3), Geometry((1, 1), (2, 2), (2, 2), 1)),
    (3, 16, 15, 14, (7, 7), Geometry((2, 2), (3, 3), (1, 1), 1)),
    (3, 8, 9, 8, (3, 3), Geometry((2, 2), (0, 0), (1, 1), 1)),
    (2, 24, 19, 21, (7, 3), Geometry((1, 2), (3, 1), (1, 1), 1)),
    (4, 8, 11, 9, (3, 3), Geometry((1, 1), (2, 2), (2, 2), 1)),
    (1, 16, 7, 6, (3, 3), Geometry((1, 1), (1, 1), (1, 1), 1)),
    (72, 130, 4, 3, (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
    (40, 136, 9, 8, (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
    (72, 40, 9, 8, (3, 3), Geometry((1, 1), (2, 1), (1, 1), 1)),
    (16, 24, 5, 6, (1, 1), Geometry((1, 1), (1, 1), (1, 1), 1)),
    (10, 20, 5, 14, (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
    (24, 24, 9, 7, (3, 3), Geometry((1, 1), (1, 1), (1, 1), 24)),
    (24, 24, 9, 10, (5, 5), Geometry((2, 2), (2, 2), (1, 1), 24)),
    (12, 12, 8, 9, (4, 4), Geometry((2, 2), (2, 2), (1, 1), 12)),
    (8, 8, 9, 9, (3, 3), Geometry((1, 1), (2, 2), (2, 2), 8)),
    (5, 5, 11, 6, (5, 3), Geometry((1, 1), (2, 1), (1, 1), 5)),
    (20, 20, 5, 17, (4, 3), Geometry((3, 2), (1, 0), (1, 1), 20)),
    (6, 6, 9, 8, (1, 1), Geometry((2, 2), (0, 0), (1, 1), 6)),
]
DEPTHWISE = [shape for shape in SHAPES if shape[-1].groups > 1]
ENDS = [None, (0, inf), (0, 6)]
# Of a product of many terms, relative to the norm. The interpreter cuts bfloat16 off where a GPU rounds.
FAITHFUL = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def interpreted():
    """The kernels as Triton's interpreter runs them on tensors of cores."""
    return interpreted_convolutions()


@pytest.fixture(params=[INTERPRETED, ON_A_GPU, ON_TILES])
def device(request, monkeypatch):
    """Where the kernels run, with float32 by bf16x3."""
    if request.param == "tiles" and request.node.callspec.params.get("dtype", torch.float32) != torch.float32:
        pytest.skip("products on cores are of float32")
    monkeypatch.setattr(arithmetic, "bf16x3", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if request.param == "cuda":
        return torch.device("cuda")
    if request.param == "tiles":
        return torch.device("cpu")
    kernels = request.getfixturevalue("interpreted")
    monkeypatch.setattr(convolutions, "on_gpu", lambda _: kernels)
    monkeypatch.setattr(convolutions, "is_on_gpu", lambda _: True)
    return torch.device("cpu")


@pytest.fixture
def kernels(request, device):
    """The module that has them."""
    return cores if request.node.callspec.params["device"] == "tiles" else convolutions.on_gpu(device)


def drawn(shape, device, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def layer(shape, device, dtype):
    """Input, weight and bias, of unit variance in and out."""
    c, k, rows, columns, kernel, geometry = shape
    fan = c // geometry.groups * kernel[0] * kernel[1]
    x = drawn((2, c, rows, columns), device, dtype).contiguous(memory_format=torch.channels_last)
    return x, drawn((k, c // geometry.groups, *kernel), device, dtype, 1) / fan**0.5, drawn((k,), device, dtype, 2)


def is_left_to_torch(shape, request):
    """Whether it is of channels too few for tiles, on cores."""
    is_few = shape[-1].groups == 1 and shape[0] <= cores.FEW
    return is_few and request.node.callspec.params["device"] == "tiles"


def distance(ours, truth):
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("dtype", FAITHFUL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolution_is_that_of_float64_with_its_rectifier(shape, dtype, device, request):
    x, weight, bias = layer(shape, device, dtype)
    truth = functional.conv2d(x.double(), weight.double(), bias.double(), *shape[-1])
    for ends in ENDS if shape in SHAPES[:2] else ENDS[2:]:
        rectified = truth if ends is None else truth.clamp(*ends)
        y = (
            conv2d(x, weight, bias, *shape[-1])
            if ends is None
            else fused_conv2d(x, weight, bias, *shape[-1], ends, None)
        )
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last) or is_left_to_torch(shape, request)
        assert distance(y, rectified) < FAITHFUL[dtype]


@pytest.mark.parametrize("dtype", FAITHFUL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_its_gradient_is_that_of_float64(shape, dtype, device):
    x, weight, bias = layer(shape, device, dtype)
    for ends in ENDS if shape in SHAPES[:2] else ENDS[2:]:
        leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        y = Convolved.apply(leaf, weight, bias, shape[-1], ends, None)
        gradient = drawn(y.shape, device, dtype, 3)
        (ours,) = torch.autograd.grad(y, leaf, gradient)
        open_ = 1 if ends is None else (y > ends[0]) & (y < ends[1])  # as ours went forward: a rounding may flip one
        truth = functional.conv2d(exact, weight.double(), bias.double(), *shape[-1])
        (truth,) = torch.autograd.grad(truth, exact, gradient.double() * open_)
        assert distance(ours, truth) < FAITHFUL[dtype]


@pytest.mark.parametrize("shape", SHAPES[::3], ids=str)
def test_products_of_one_term_are_for_gradients_alone(shape, device, request):
    """Forward, which rectifiers are open must be exact; given them the way back is linear."""
    x, weight, bias = layer(shape, device, torch.float32)
    leaf = x.clone().requires_grad_()
    y = conv2d(leaf, weight, bias, *shape[-1])
    gradient = drawn(y.shape, device, torch.float32, 3)
    (close,) = torch.autograd.grad(y, leaf, gradient, retain_graph=True)
    with bfloat16_gradients():
        again = conv2d(leaf, weight, bias, *shape[-1])
        (coarse,) = torch.autograd.grad(y, leaf, gradient)
    assert torch.equal(y, again)
    is_exact = is_left_to_torch(shape, request) and max(shape[-1].stride) == 1  # else by phases, which are many
    if shape[-1].groups > 1 or is_exact:
        assert torch.equal(close, coarse)  # sums of float32, no products of matrices
    else:
        assert 1e-4 < distance(coarse, close.double()) < 1e-2


@pytest.mark.parametrize(("shape", "dtype"), list(zip(DEPTHWISE, cycle((torch.float16, torch.float32)))), ids=str)
def test_a_depthwise_sum_is_the_same_in_any_tile(shape, dtype, device, request, monkeypatch):
    """As wide as the image or narrower, of any number of channels a thread, gated or not."""
    if request.node.callspec.params["device"] == "tiles":
        pytest.skip("cores take a row at a time")
    x, weight, bias = layer(shape, device, dtype)
    geometry, gate = shape[-1], x.clamp(-1, 1)
    from attribution.gpu.tiles import DepthwiseTiles  # no core needs Triton

    kernels = convolutions.on_gpu(device)
    told = []
    for tiles in ((1, 2, 8, 8, 4, None), (4, 4, 4, 32, 4, None), (2, 7, 2, 16, 8, 64)):
        made = DepthwiseTiles(*tiles)
        monkeypatch.setattr(kernels.launches, "depthwise_tiles", lambda *_, made=made, **__: made)
        y = kernels.convolve(x, weight, bias, geometry, (0, 6), 1)
        gradient = drawn(y.shape, device, dtype, 3)
        pulled = kernels.pulled_back(gradient, weight, geometry, x.shape, 1)
        gated = kernels.pulled_back(gradient, weight, geometry, x.shape, 1, gate, (-1, 1))
        told.append((y, pulled, gated))
    assert torch.equal(gated, torch.where((gate > -1) & (gate < 1), pulled, 0))
    assert all(torch.equal(*pair) for others in told[1:] for pair in zip(told[0], others, strict=True))


def test_other_strides_and_no_images_give_the_same(device):
    """Rows, channels or an image's pixels may lie in any order."""
    x, weight, bias = layer(SHAPES[1], device, torch.float32)
    few, narrow, narrow_bias = layer(SHAPES[6], device, torch.float32)
    for given, w, b, geometry in ((x, weight, bias, SHAPES[1][-1]), (few, narrow, narrow_bias, SHAPES[6][-1])):
        y = conv2d(given, w, b, *geometry)
        for other in (
            given.contiguous(),
            given.transpose(2, 3).contiguous().transpose(2, 3),
            torch.cat([given] * 2)[::2][:1],
        ):
            assert torch.equal(conv2d(other, w, b, *geometry), y[: len(other)])
        assert conv2d(given[:0], w, b, *geometry).shape == (0, *y.shape[1:])


@needs_triton
@pytest.mark.parametrize("rows", [1, 5, 7, 14, 28, 56, 112])
def test_a_box_reads_few_pixels_outside_of_images(rows):
    from attribution.gpu.tiles import box_for

    for pixels in (64, 128, 256):
        images, tall, wide = box_for(rows, rows, pixels)
        assert images * tall * wide == pixels
        assert -(-rows // tall) * tall * -(-rows // wide) * wide <= 1.2 * rows**2


def test_what_is_no_number_stays_none(device):
    x, weight, bias = layer(SHAPES[1], device, torch.float16)
    x[0, 0, 0, 0] = torch.nan
    for ends in ENDS[1:]:
        assert fused_conv2d(x, weight, bias, *SHAPES[1][-1], ends, None)[0].isnan().any()


class Read(nn.Module):
    """A rectified activation that is read once, or also by what does not gate its gradient."""

    def __init__(self, readers):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()
        self.second, self.third = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.readers = readers

    def forward(self, x):
        y = self.relu(self.first(x))
        z = self.second(y)
        if self.readers == "two convolutions":
            z = z + self.third(y)
        if self.readers == "a sum":
            z = z + 3 * y
        if self.readers == "a sum before":
            z = 3 * y + z
        told = z.square().mean((2, 3))
        return told - 2 * y.mean((2, 3)) if self.readers == "a mean" else told


@pytest.mark.parametrize("readers", ["one", "two convolutions", "a sum", "a sum before", "a mean"])
def test_whoever_reads_an_activation_its_gradient_is_gated_once(readers, device, monkeypatch):
    """A kernel lets pass what the rectifier before it lets pass; what others add goes through the rectifier's own node."""
    model = Read(readers).to(device)
    x = drawn((2, 3, 8, 8), device, torch.float32)
    prepared = prepare(model, [resolve(parse("saliency"), model, x)], x).model
    assert isinstance(prepared.first, Convolution)
    assert prepared.first.ends == (0, inf)
    passed = []
    through = convolutions._through
    monkeypatch.setattr(convolutions, "_through", lambda *given: passed.append(0) or through(*given))
    slopes = []
    for f in (prepared, model.double()):
        leaf = x.to(next(f.parameters()).dtype).requires_grad_()
        slopes += torch.autograd.grad(f(leaf).sum(), leaf)
    assert distance(slopes[0], slopes[1]) < 1e-4
    assert len(passed) == (readers not in ("one", "two convolutions"))


class Residual(nn.Module):
    """Two blocks of a ResNet (torchvision's `Bottleneck`, narrow), the second without a projection."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True)
        self.inner = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.projection = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        x = self.relu(self.stem(x))
        for inner, outer, projection in zip(self.inner, self.outer, (self.projection, nn.Identity()), strict=True):
            out = outer(self.relu(inner(x)))
            out += projection(x)
            x = self.relu(out)
        return x.square().mean((2, 3))


def residual(device):
    """The blocks as given, in float64, and prepared, and an image."""
    model, x = Residual().to(device).eval(), drawn((2, 3, 8, 8), device, torch.float32)
    prepared = prepare(model, [resolve(parse("saliency"), model, x)], x).model
    assert [module.awaits for module in prepared.outer] == [("add", "relu")] * 2
    return model.double(), prepared, x


def test_sums_and_rectifiers_of_a_block_come_with_its_convolutions_both_ways(device, kernels, monkeypatch):
    """No pass over memory but the convolutions', and one for the last rectifier, which no convolution reads."""
    given, prepared, x = residual(device)
    calls, passed = {"convolve": [], "pulled_back": []}, []

    def recording(name):
        function = getattr(kernels, name)

        def recorded(*args, **kwargs):
            calls[name].append(signature(function).bind(*args, **kwargs).arguments.get("added") is not None)
            return function(*args, **kwargs)

        return recorded

    for name in calls:
        monkeypatch.setattr(kernels, name, recording(name))
    through = convolutions._through
    monkeypatch.setattr(convolutions, "_through", lambda *given: passed.append(0) or through(*given))
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    (ours,) = torch.autograd.grad(prepared(leaf).sum(), leaf)
    stem = [] if kernels is cores else [False]  # of three channels
    assert calls == {
        "convolve": [*stem, False, False, True, False, True],  # inner, projection, outer; inner, outer
        # The convolution that read a block's input first adds what the sum or the projection has handed on.
        "pulled_back": [False, True, False, False, True, *stem],
    }
    assert len(passed) == 1
    (theirs,) = torch.autograd.grad(given(exact).sum(), exact)
    assert distance(ours, theirs) < 1e-4


def test_a_block_tells_any_part_of_its_graph_the_same(device):
    """Whatever gradients are asked of, and again: what was handed on is never lost and never added twice."""
    given, prepared, x = residual(device)
    told = []
    for f in (prepared, given):
        seen = []
        with visiting(Place(f.relu), seen.extend):  # of the stem first
            leaf = x.clone().to(next(f.parameters()).dtype).requires_grad_()
            out = f(leaf).sum()
        open_ = seen[0] > 0  # where it is shut a reader may have gated its gradient already
        slopes = [torch.autograd.grad(out, of, retain_graph=True) for of in (seen[:1], [leaf, seen[0]], [leaf])]
        out.backward()
        told.append([slopes[0][0] * open_, slopes[1][0], slopes[1][1] * open_, slopes[2][0], leaf.grad])
    for ours, theirs in zip(*told, strict=True):
        assert distance(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    "case",
    ["the first reader leads nowhere", "written to between its readers", "read by two sums", "read by a sum alone"],
)
def test_what_is_handed_on_is_for_whoever_comes_later_on_the_same_way_back(case, device):
    weight = drawn((16, 16, 1, 1), device, torch.float32, 1) / 4
    x = drawn((2, 16, 5, 4), device, torch.float32).contiguous(memory_format=torch.channels_last)
    plain = (1, 1), (0, 0), (1, 1), 1

    def told(real, convolve):
        leaf = x.to(real).requires_grad_()
        w, y = weight.to(real), leaf * 2
        first = convolve(y, w, None, *plain, (0, inf), None)
        if case == "the first reader leads nowhere":
            z = convolve(leaf, w, None, *plain, None, y)
        elif case == "read by a sum alone":  # which its own reader gates, and nobody the tensor itself
            rectified = convolve(y, w, None, *plain, (0, inf), None)
            total = convolve(first, w, None, *plain, (0, 1), rectified)
            z = convolve(total, w, None, *plain, None, None)
        elif case == "read by two sums":
            z = convolve(convolve(first, w, None, *plain, None, y), w, None, *plain, None, y)
        else:
            y.mul_(3)
            z = convolve(first, w, None, *plain, None, y)
        return torch.autograd.grad(z.square().sum(), leaf)[0]

    assert distance(told(torch.float32, fused_conv2d), told(torch.float64, in_steps)) < 1e-4


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        nn.Sequential(
            nn.Conv2d(8, 24, 1), nn.ReLU6(), nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.ReLU6(), nn.Conv2d(24, 8, 1)
        ),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


EXPRESSIONS = (
    "saliency",
    "deep_lift",
    "lrp",
    "guided_backprop",
    "deconvolution",
    "integrated_gradients(n_steps=3)",
    'grad_cam(at="2.0")',
    'input_x_gradient(at="0")',
    'input_x_gradient(at="1")',
    'conductance(n_steps=2, at="0.2")',
    'guided_grad_cam(at="2")',
    "occlusion(window=6, stride=6)",
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_methods_tell_the_same_by_kernels_and_without(expression, device):
    """At layers whose activations a kernel would gate on its way, too."""
    model, x = network().to(device), drawn((2, 3, 12, 12), device, torch.float32)
    ours, theirs = told_by_kernels_and_without(model, x, expression)
    assert distance(ours, theirs.double()) < 1e-3


def test_a_layers_gradient_is_not_gated_by_what_reads_it(device):
    """Where a rectifier is shut its output's gradient is what it is."""
    model, x = network().to(device), drawn((2, 3, 12, 12), device, torch.float32)
    prepared = prepare(model, [resolve(parse('input_x_gradient(at="0")'), model, x)], x).model
    found = Layer(Score(model=prepared, target=torch.tensor([1, 2], device=device)), prepared[0]).at(x)
    shut = found.features <= 0
    assert shut.any()
    assert found.gradient[shut].abs().sum() > 0


def test_kernels_that_move_the_model_are_refused(device, kernels, monkeypatch):
    model, x = network().to(device), drawn((2, 3, 12, 12), device, torch.float32)
    prepared = prepare(model, [resolve(parse("saliency"), model, x)], x).model
    assert as_by_torch(prepared, x) == ""
    right = kernels.convolve
    monkeypatch.setattr(kernels, "convolve", lambda x, *rest: right(x * 1.1, *rest))
    assert "the output by" in as_by_torch(prepared, x)

    def fails(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(kernels, "convolve", fails)
    assert "no compiler" in as_by_torch(prepared, x)


def test_kernels_may_be_as_far_from_float64_as_torchs_own(device, monkeypatch):
    """In float16 rectifiers flip, for torch in other places than for us: no kernel is to blame for that."""
    monkeypatch.setattr(prepare_module, "KERNELS_TOLERANCE", {torch.float16: (0.0, 0.0)})
    model, x = network().to(device), drawn((2, 3, 12, 12), device, torch.float32)
    prepared = prepare(model, [resolve(parse("saliency"), model, x)], x).model.half()
    assert as_by_torch(prepared, x.half()) == ""


def test_what_is_derived_from_weights_follows_them():
    made = []
    double = Derived(lambda weight, factor: made.append(0) or weight * factor)
    module = nn.Conv2d(1, 1, 1)
    for _ in range(2):
        assert torch.equal(double(module.weight, 2), module.weight * 2)
    assert len(made) == 1
    module.half()
    assert double(module.weight, 2).dtype == torch.float16
    with torch.no_grad():
        module.weight.fill_(3)
    assert double(module.weight, 2) == 6
    assert double(module.weight, 3) == 9


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "ends"), list(product(SHAPES, ENDS[1:])), ids=str)
def test_on_a_gpu_runs_are_equal_to_the_bit(shape, ends, monkeypatch):
    monkeypatch.setattr(arithmetic, "bf16x3", True)
    x, weight, bias = layer(shape, "cuda", torch.float32)
    leaf = x.requires_grad_()
    told = []
    for _ in range(2):
        y = fused_conv2d(leaf, weight, bias, *shape[-1], ends, None)
        told.append((y, *torch.autograd.grad(y.sum(), leaf)))
    assert all(torch.equal(*pair) for pair in zip(*told, strict=True))
