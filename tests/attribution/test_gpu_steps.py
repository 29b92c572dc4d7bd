"""Steps as kernels of a GPU give what torch's operations give one by one: by Triton's interpreter here, by a GPU where there is one."""

from math import inf, nan
from types import SimpleNamespace

import pytest
import torch
from asking import ask, images
from clamps import ENDS, LAYOUTS, numbers, rescaled, same
from interpreting import INTERPRETED, ON_A_GPU, interpreted_module, needs_gpu, needs_triton

from attribution import native
from attribution.blocks import layout_of
from attribution.graphs import CudaCapture, Graphs
from attribution.kept import Kept
from attribution.passes import Passes
from attribution.rules import difference, linear, rectified

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, which the interpreter uses

REALS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# Less than a block of columns, and several with a rest, of which no vector can be loaded at once.
SHAPES = [(3, 4, 5, 2), (3, 5, 31, 17)]
EPS = 1e-3


@pytest.fixture(scope="module")
def interpreted():
    """The kernels as Triton's interpreter runs them on tensors of cores. Whatever else imports them gets them as they are."""
    return interpreted_module("gpu.steps")


@pytest.fixture(params=[INTERPRETED, ON_A_GPU])
def device(request, monkeypatch):
    """Where the kernels run, in place of what cores have."""
    if request.param == "cuda":
        return torch.device("cuda")
    steps = request.getfixturevalue("interpreted")
    monkeypatch.setattr(native, "steps_for", lambda _: steps)
    return torch.device("cpu")


@pytest.fixture
def by_torch(monkeypatch):
    """What torch's operations make of a call."""

    def run(call):
        with monkeypatch.context() as without:
            without.setattr(native, "steps_for", lambda _: None)
            return call()

    return run


def is_law(ours, expected):
    """Equal; but Triton's interpreter cuts bfloat16 off where it should round."""
    if ours.dtype is torch.bfloat16 and ours.is_cpu:
        torch.testing.assert_close(ours, expected, rtol=2**-7, atol=0, equal_nan=True)
        return True
    return same(ours, expected)


def kept(z, eps=EPS):
    size = difference.wide(z).abs()
    return (size / (size + eps)).nan_to_num(1)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("rows", ["as many", "one", "expanded", "one number"])
def test_a_clamps_multiplier(device, by_torch, dtype, shape, layout, rows):
    lay = LAYOUTS[layout]
    x, gradient = (lay(numbers(dtype, *shape, seed=seed)).to(device) for seed in (0, 1))
    r = numbers(dtype, *(shape if rows == "as many" else (1, *shape[1:])), seed=2).to(device)
    if rows == "as many":
        x = torch.where(torch.rand(shape).to(device) < 0.3, r, x)
    elif rows == "expanded":
        r = r.expand(shape)
    elif rows == "one number":
        r = torch.full((1, 1, 1, 1), 0.5, dtype=dtype, device=device)
    for ends in ENDS.values():
        assert native.rescale(torch.empty_like(x), x, gradient, r, ends)
        plain = by_torch(lambda ends=ends: rescaled(ends, gradient, x, r))
        assert is_law(rescaled(ends, gradient, x, r), plain)
        assert is_law(rescaled(ends, gradient, x, r, True), plain)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damped_and_guided_signals(device, dtype, shape, layout):
    z = LAYOUTS[layout](numbers(dtype, *shape).to(device))
    gradient = LAYOUTS["channels last"](numbers(dtype, *shape, seed=1).to(device))
    output = torch.empty_like(z)
    assert native.damp(output, z, gradient, EPS) == (layout_of(output) is not None)
    if layout_of(output) is not None:
        assert is_law(output, (kept(z) * difference.wide(gradient)).to(dtype))
    for high in (inf, 6.0):
        y = z.nan_to_num(0).clamp(0, high)
        assert native.guide(output, y, gradient, high) == (layout_of(output) is not None)
        (gated,) = rectified.guided_step(high)(None, gradient, [y], [])
        assert same(gated, torch.ops.aten.hardtanh_backward(gradient, y, 0, high).clamp(min=0))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 7), (2, 1030)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_damped_scale_of_channels(device, dtype, shape, layout):
    lay = LAYOUTS[layout] if len(shape) == 4 else LAYOUTS["contiguous"]
    z, gradient, x = (lay(numbers(dtype, *shape, seed=seed)).to(device) for seed in (0, 1, 3))
    scale = numbers(dtype, shape[1], seed=2).nan_to_num(0, 1, -1).to(device)
    behind = linear.Damping(eps=EPS, kept=Kept(x), has_heir=True, readers=1)
    assert native.damp(torch.empty_like(z), z, gradient, EPS, scale)
    (signal,) = linear.damped_scale(EPS, scale, None)(None, gradient, [z], [])
    (twice,) = linear.damped_scale(EPS, scale, behind)(None, gradient, [z], [])
    of_channels = difference.wide(scale).reshape(-1, *[1] * (len(shape) - 2))
    expected = kept(z) * difference.wide(gradient) * of_channels
    assert is_law(signal, expected.to(dtype))
    assert is_law(twice, (expected * kept(x)).to(dtype))


def test_a_stabiliser_of_half_precision_is_not_rounded_away(device):
    z = torch.tensor([[0.0, 1e-4, 1.0, nan, inf]], dtype=torch.float16, device=device)
    output = torch.empty_like(z)
    assert native.damp(output, z, torch.ones_like(z), 1e-9)
    assert output.tolist() == [[0, 1, 1, 1, 1]]  # in float16 eps is 0, and what is 0 would pass whole


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_is_taken_before_the_clamp(device, dtype, shape):
    for low, high in ENDS.values():
        x = numbers(dtype, *shape).to(device)
        given, copy = x.clone(), torch.empty_like(x)
        out, written = (t.view(len(t), -1) for t in (copy, x))
        assert native.steps_for(x).clamp(out, written, low, high)
        assert same(copy, given)
        assert same(x, given.clamp(low, high))


def test_what_lies_in_no_order_is_of_two_types_or_empty_is_left_to_torch(device, by_torch):
    x = numbers(torch.float32, 4, 5, 6, 7).to(device)
    across = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not native.damp(torch.empty_like(across), across, x, EPS)
    assert not native.damp(x.clone(), x, x.double(), EPS)
    nothing = x[:0]
    assert not native.damp(nothing.clone(), nothing, nothing, EPS)
    assert rescaled((0.0, inf), nothing, nothing, nothing).shape == nothing.shape


@needs_triton
def test_what_32_bits_do_not_count_is_left_to_torch(interpreted):
    wide = SimpleNamespace(shape=(1, interpreted.WIDEST + 1), dtype=torch.float32)
    assert not interpreted.guide(wide, None, None, inf)


def test_without_triton_the_steps_are_torchs(monkeypatch, caplog):
    monkeypatch.setattr(native, "find_spec", lambda _: None)
    assert native.on_gpu.__wrapped__(torch.device("cuda")) is None
    assert not caplog.messages  # an installation for cores


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_where_kernels_can_not_be_launched_the_steps_are_torchs(caplog):
    assert native.on_gpu.__wrapped__(torch.device("cuda")) is None
    assert "torch computes alone" in caplog.text


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", REALS)
def test_a_cuda_graph_holds_the_steps(dtype):
    shape, scale = (3, 16, 31, 17), numbers(dtype, 16, seed=5).nan_to_num(0, 1, -1).cuda()
    own = [LAYOUTS["channels last"](torch.zeros(shape, dtype=dtype, device="cuda")) for _ in range(3)]
    others = [numbers(dtype, *shape, seed=seed).cuda() for seed in range(3)]

    def steps():
        x, gradient, r = own
        results = [torch.empty_like(x) for _ in range(4)]
        done = (
            native.rescale(results[0], x, gradient, r[:1], (0.0, 6.0)),
            native.damp(results[1], x, gradient, EPS),
            native.damp(results[2], x, gradient, EPS, scale, r),
            native.guide(results[3], x, gradient, 6.0),
        )
        assert all(done)
        return results

    steps()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = steps()
    for mine, other in zip(own, others, strict=True):
        mine.copy_(other)
    graph.replay()
    assert all(map(same, [each.clone() for each in recorded], steps()))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("text", ["deep_lift", "deep_lift_shap(baseline='reference(n=2)')", "lrp", "guided_backprop"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_methods_answer_the_same_in_one_step_as_in_many(model, x, by_torch, text, dtype):
    model, x = model.to("cuda", dtype), x.cuda()
    plain = by_torch(lambda: ask(model, images(x), text))
    ours = ask(model, images(x), text)
    graphs = Graphs(CudaCapture())
    for _ in range(3):
        replayed = ask(model, images(x), text, passes=Passes(4, graphs=graphs))
    assert graphs.refused == []
    # The steps are equal, but sums of a GPU need not come in one order; LRP rounds less often in float16.
    close = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.05}[dtype]
    for answer in (ours, replayed):
        distance = (answer.attribution.double() - plain.attribution.double()).norm()
        assert float(distance) <= close * float(plain.attribution.double().norm())
