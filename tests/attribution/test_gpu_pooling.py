"""Max-pools as kernels of a GPU are torch's, to the bit forward: by Triton's interpreter here, by a GPU where there is one."""

from math import inf

import pytest
import torch
from interpreting import (
    INTERPRETED,
    ON_A_GPU,
    interpreted_convolutions,
    interpreted_module,
    told_by_kernels_and_without,
)
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attribution import convolutions, pooling
from attribution.arithmetic import arithmetic, by_torch_alone
from attribution.deferred import Convolution
from attribution.explain import resolve
from attribution.geometry import Window, pair
from attribution.layer import Layer
from attribution.pooling import MaxPool, Pooled, max_pool2d
from attribution.prepare import as_by_torch, prepare
from attribution.question import parse
from attribution.score import Score

# channels, rows, columns, and torch's settings: kernel, stride, padding, dilation, ceil_mode
SHAPES = [
    (64, 13, 12, (3, 2, 1, 1, False)),
    (16, 8, 9, (2, 2, 0, 1, False)),
    (24, 9, 8, (3, 2, 0, 1, True)),
    (8, 7, 11, (2, 3, 1, 1, True)),
    (130, 6, 5, (3, 1, 1, 1, False)),
    (3, 9, 10, ((3, 2), (2, 1), (1, 0), 1, False)),
    (12, 14, 11, (3, 2, 1, 2, False)),
    (10, 12, 13, ((2, 3), (3, 2), (1, 1), (3, 2), True)),
    (16, 9, 9, (5, 1, 2, 1, False)),
    (8, 17, 16, (4, 4, 2, 1, True)),
    (8, 5, 4, (3, 4, 1, 1, True)),
]
# Forward nothing is rounded. Back, sums of a few numbers are, in another order or, in half precision, once where torch does it each time.
FAITHFUL = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def interpreted():
    """The kernels as Triton's interpreter runs them on tensors of cores."""
    pools = interpreted_module(
        "gpu.pooling", {"TILE_BYTES": 1 << 14}
    )  # an eighth of the programs, each of which takes its time
    return interpreted_convolutions(), pools


@pytest.fixture(params=[INTERPRETED, ON_A_GPU])
def device(request, monkeypatch):
    """Where the kernels run, with float32 by bf16x3."""
    monkeypatch.setattr(arithmetic, "bf16x3", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if request.param == "cuda":
        return torch.device("cuda")
    for module, kernels in zip((convolutions, pooling), request.getfixturevalue("interpreted"), strict=True):
        monkeypatch.setattr(module, "on_gpu", lambda _, kernels=kernels: kernels)
        monkeypatch.setattr(module, "is_on_gpu", lambda _: True)
    return torch.device("cpu")


def drawn(shape, device, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def maps(shape, device, dtype):
    """Maps with many ties, channels_last."""
    c, rows, columns, settings = shape
    coarse = (2 * drawn((2, c, rows, columns), device, torch.float32)).round().to(dtype)
    return coarse.contiguous(memory_format=torch.channels_last), settings


def slope(f, x, gradient):
    leaf = x.clone().requires_grad_()
    y = f(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, gradient.to(y))[0], y


def both(x, settings):
    """(value, gradient) of ours, and of torch on cores in float64, where equal maxima are taken in the same order."""
    theirs = functional.max_pool2d(x.double().cpu(), *settings)
    gradient = drawn(theirs.shape, "cpu", torch.float32, 3).to(x.dtype)
    value, found, y = slope(lambda leaf: max_pool2d(leaf, *settings), x, gradient)
    assert type(y.grad_fn).__name__ == "PooledBackward"
    known, truth, _ = slope(lambda leaf: functional.max_pool2d(leaf, *settings), x.double().cpu(), gradient)
    return (value, found), (known, truth)


def equal(ours, theirs):
    return torch.equal(ours.double().cpu().nan_to_num(1e9), theirs.nan_to_num(1e9))


@pytest.mark.parametrize("dtype", FAITHFUL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_max_pool_is_torchs_with_its_gradient(shape, dtype, device):
    x, settings = maps(shape, device, dtype)
    (value, found), (known, truth) = both(x, settings)
    assert value.dtype == found.dtype == dtype
    assert value.is_contiguous(memory_format=torch.channels_last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert equal(value, known)
    assert equal(max_pool2d(x, *settings), known)
    assert ((found.double().cpu() != 0) == (truth != 0)).all()
    assert float((found.double().cpu() - truth).norm() / truth.norm()) < FAITHFUL[dtype]


@pytest.mark.parametrize("odd", [torch.nan, -inf, inf])
def test_what_is_no_number_wins_and_what_is_nothing_may(odd, device):
    """By windows that hold it once, several times and everywhere, at edges as well."""
    for share in (0.1, 0.5, 1.0):
        x, settings = maps(SHAPES[0], device, torch.float32)
        is_odd = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share
        x[is_odd.to(device)] = odd
        x[:, :, :3, :3] = odd
        (value, found), (known, truth) = both(x, settings)
        assert equal(value, known)
        torch.testing.assert_close(found.double().cpu(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", FAITHFUL)
def test_it_is_gated_as_its_input_would_be(dtype, device):
    """What a rectifier's own node would make of the gradient: nothing where its output is at an end."""
    for ends in ((0, inf), (-1, 2)):
        x, settings = maps(SHAPES[0], device, dtype)
        x = x.clamp(*ends)
        x[:, :, :2, :2] = ends[1]
        if ends[1] == inf:  # torch on cores stops the gradient of no number at two ends alone
            x[:, :, 4:7, 4:7] = torch.nan
        leaf = x.clone().requires_grad_()
        window = Window(*map(pair, settings[:4]), settings[4])
        plain, gated = (Pooled.apply(leaf, window, pooling.on_gpu(leaf.device), gate) for gate in (None, ends))
        gradient = drawn(plain.shape, device, dtype, 3)
        one, other = (torch.autograd.grad(y, leaf, gradient)[0] for y in (plain, gated))
        assert equal(gated, plain.double().cpu())
        assert torch.equal(other, convolutions._through(ends, x, one))
        assert (one != other).any()


def test_what_the_kernels_are_not_for_is_torchs(device):
    x, settings = maps(SHAPES[1], device, torch.float32)
    x.requires_grad_()
    whole = x.double()
    for given, how in ((whole, settings), (x.contiguous(), settings), (x[0], settings), (x, (7, 1, 3)), (x, (5, 5))):
        y = max_pool2d(given, *how)
        assert type(y.grad_fn).__name__ != "PooledBackward"
        assert torch.equal(y, functional.max_pool2d(given, *how))
    with by_torch_alone():
        assert type(max_pool2d(x, *settings).grad_fn).__name__ != "PooledBackward"
    for wrong in ((2, 1, 2), (9, 1), (2, 0)):
        with pytest.raises(RuntimeError):
            max_pool2d(x, *wrong)
    assert max_pool2d(x[:0], *settings).shape == (0, 16, 4, 4)


def test_a_byte_for_each_place_is_all_that_is_held_and_without_a_gradient_nothing(device, monkeypatch):
    x, settings = maps(SHAPES[0], device, torch.float32)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        y = max_pool2d(x.requires_grad_(), *settings)
    assert [(t.shape, t.dtype) for t in held] == [(y.shape, torch.uint8)]
    monkeypatch.delattr(pooling.on_gpu(x.device), "pool_and_taps")
    with torch.no_grad():
        assert torch.equal(max_pool2d(x, *settings), y)


def test_a_gradient_in_other_strides_is_the_same(device):
    """As a linear layer behind the flattened maps hands it back."""
    x, settings = maps(SHAPES[0], device, torch.float32)
    leaf = x.clone().requires_grad_()
    y = max_pool2d(leaf, *settings)
    gradient = drawn(y.shape, device, torch.float32, 3)
    found = [
        torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
        for g in (gradient.contiguous(memory_format=torch.channels_last), gradient, gradient.mT.contiguous().mT)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


class Pools(nn.Module):
    """A stem as ResNet's, and max-pools that can't be ours."""

    def __init__(self, readers="one"):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.relu = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        self.pool, self.last = nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2)
        self.second, self.relu6, self.branch = nn.Conv2d(16, 16, 3, padding=1), nn.ReLU6(), nn.Conv2d(16, 8, 1)
        self.placed, self.head = nn.MaxPool2d(2, return_indices=True), nn.Linear(16, 5)
        self.readers = readers

    def forward(self, x):
        y = self.relu(self.norm(self.stem(x)))
        beside = self.branch(y) if self.readers == "a convolution before" else None
        z = self.pool(y)
        beside = self.branch(y) if self.readers == "a convolution after" else beside
        z = self.relu6(self.second(z))
        told = self.head(self.placed(self.last(z))[0].mean((2, 3)))
        if beside is not None:
            return told + beside.square().mean((2, 3))[:, :5]
        return told + y.mean((1, 2, 3))[:, None] if self.readers == "a mean" else told


@pytest.mark.parametrize("readers", ["one", "a mean", "a convolution before", "a convolution after"])
def test_whoever_reads_an_activation_its_gradient_is_gated_once(readers, device, monkeypatch):
    """The pool lets pass what the rectifier before it lets pass; what others add goes through the rectifier's own node."""
    model = Pools(readers).eval().to(device)
    x = drawn((2, 3, 12, 12), device, torch.float32)
    prepared = prepare(model, [resolve(parse("saliency"), model, x)], x).model
    assert isinstance(prepared.stem, Convolution)
    passed = []
    through = convolutions._through
    monkeypatch.setattr(convolutions, "_through", lambda *given: passed.append(0) or through(*given))
    slopes = []
    for f in (prepared, model.double()):
        leaf = x.to(next(f.parameters()).dtype).requires_grad_()
        slopes += torch.autograd.grad(f(leaf).sum(), leaf)
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 1e-3
    # A convolution that read it before takes what the pool makes; what autograd adds up passes the rectifier's own node.
    assert len(passed) == (readers not in ("one", "a convolution before"))


EXPRESSIONS = (
    "saliency",
    "deep_lift",
    "lrp",
    "guided_backprop",
    "deconvolution",
    "integrated_gradients(n_steps=2)",
    'grad_cam(at="second")',
    'input_x_gradient(at="relu")',
    'input_x_gradient(at="pool")',
    'input_x_gradient(at="second")',
    'conductance(n_steps=2, at="stem")',
    "occlusion(window=6, stride=6)",
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_methods_tell_the_same_by_kernels_and_without(expression, device):
    model, x = Pools().eval().to(device), drawn((2, 3, 12, 12), device, torch.float32)
    ours, theirs = told_by_kernels_and_without(model, x, expression)
    assert float((ours - theirs).double().norm() / theirs.double().norm()) < 1e-3


def test_kernels_that_move_the_model_are_refused(device, monkeypatch):
    model, x = Pools().eval().to(device), drawn((2, 3, 12, 12), device, torch.float32)
    prepared = prepare(model, [resolve(parse("saliency"), model, x)], x).model
    assert as_by_torch(prepared, x) == ""
    kernels = pooling.on_gpu(device)
    right = kernels.pulled_back
    monkeypatch.setattr(kernels, "pulled_back", lambda g, *rest: right(g * 2, *rest))
    assert "its gradient by" in as_by_torch(prepared, x)


def test_max_pools_are_ours_where_nobody_names_them(x):
    model = Pools().double().eval()
    prepared = prepare(model, [resolve(parse("input_x_gradient(at='last')"), model, x)], x).model
    owned = {name for name, module in prepared.named_modules() if isinstance(module, MaxPool)}
    assert owned == {"pool"}
    assert isinstance(prepared.pool, nn.MaxPool2d)
    assert repr(prepared.pool).endswith(repr(model.pool).removeprefix("MaxPool2d"))
    assert torch.equal(prepared.pool(x), model.pool(x))
    assert type(model.pool) is nn.MaxPool2d


def test_what_comes_before_a_layer_is_recorded_with_them(x):
    model = prepare(Pools().double().eval(), [], x).model
    layer = Layer(Score(model=model, target=torch.zeros(len(x), dtype=torch.int64)), model.second)
    tail = layer.tail(x)
    torch.testing.assert_close(tail.score(layer.features(x)), layer.score(x), rtol=0, atol=1e-13)
    assert tail.path == "replay"


def test_modes_see_torchs_name(x):
    class Names(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            names.append(function.__name__)
            return function(*args, **(kwargs or {}))

    names = []
    with Names():
        MaxPool.of(nn.MaxPool2d(3, 2, 1))(x)
    assert names == ["max_pool2d"]
