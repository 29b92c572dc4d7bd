"""Each operation's rule keeps its law: DeepLIFT's shares are exact, LRP's conserve, against loops and dense jacobians."""

import functools

import pytest
import torch
import torch.nn.functional as F
from interpreting import needs_gpu

from attribution.audit import uncovered
from attribution.calls import Bound
from attribution.propagation import lent
from attribution.rules import rescale
from attribution.rules.linear import Alpha1Beta0, Epsilon, Gamma, Identity
from attribution.rules.rectified import DECONVOLVED, GUIDED
from attribution.rules.relevance import relevance
from attribution.rules.rescale import RESCALE


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


A, B = randn(3, 4, 5, seed=11), randn(4, 5, 6, seed=12)  # constants in the operations below
KERNEL, WEIGHTS = randn(4, 2, 3, 3, seed=13), randn(4, seed=14)


def in_place(function):
    def call(x):
        y = x * 1
        function(y)
        return y

    return call


def overwritten(x):
    y = F.relu(x)
    x = x * 1
    z = F.silu(x)
    x += 1  # after a rule has kept x
    return y + z * x


ELEMENTWISE = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "relu module": torch.nn.ReLU(),
    "relu_": in_place(torch.relu_),
    "F.relu in place": in_place(lambda x: F.relu(x, inplace=True)),
    "relu6": F.relu6,
    "relu6 module in place": in_place(torch.nn.ReLU6(inplace=True)),
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clip min": lambda x: torch.clip(x, min=0),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu_": in_place(lambda x: F.leaky_relu_(x, 0.2)),
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "rrelu": F.rrelu,
    "prelu": lambda x: F.prelu(x, WEIGHTS),
    "silu": F.silu,
    "silu in place": in_place(torch.nn.SiLU(inplace=True)),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardswish in place": in_place(torch.nn.Hardswish(inplace=True)),
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "tanh_": in_place(torch.tanh_),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -0.3),
    "exp": torch.exp,
    "log": lambda x: torch.log(x * x + 1),
    "log1p": lambda x: torch.log1p(x * x),
    "sqrt": lambda x: torch.sqrt(x * x + 0.3),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.3),
    "square": torch.square,
    "power": lambda x: x**3,
    "number to a power": lambda x: 2**x,
    "power_": in_place(lambda x: x.pow_(2)),
    "abs": abs,
    "neg": torch.neg,
    "reciprocal": lambda x: 1 / (x * x + 0.3),
    "number divided": lambda x: 2.0 / (x.square() + 0.3),
    "erf": torch.erf,
    "sin": torch.sin,
    "maximum with a constant": lambda x: torch.maximum(x, torch.tensor(0.1, dtype=x.dtype)),
    "sign": torch.sign,
    "torch.ops": torch.ops.aten.silu,
    "torch.ops overload": torch.ops.aten.gelu.default,
    "torch.ops in place": in_place(torch.ops.aten.hardtanh_),
}

OTHERS = {
    "overwritten": overwritten,
    "product": lambda x: x * x.flip(-1),
    "product in place": in_place(lambda x: x.mul_(x.flip(-1).sigmoid())),
    "product by operator in place": lambda x: (x * 1).__imul__(x.flip(-1)),
    "broadcast product": lambda x: x * x.mean((2, 3), keepdim=True),
    "swish by hand": lambda x: x * torch.sigmoid(x),
    "product of three": lambda x: x * x.flip(-1) * x.flip(-2),
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "bmm": lambda x: torch.bmm(x.flatten(0, 1), x.flatten(0, 1).mT),
    "einsum": lambda x: torch.einsum("nchw,ncvw->nchv", x, x.exp()),
    "baddbmm": lambda x: torch.baddbmm(x.flatten(0, 1), x.flatten(0, 1), x.flatten(0, 1)),
    "addmm": lambda x: torch.addmm(x[0, 0], x[1, 0], x[1, 1]),
    "addcmul": lambda x: torch.addcmul(x, x.flip(-1), x.flip(-2), value=0.5),
    "convolution by its own input": lambda x: F.conv2d(x, x[:1, :, :3, :3].expand(4, 4, 3, 3)),
    "quotient": lambda x: x / (x.flip(-1).square() + 0.5),
    "quotient in place": in_place(lambda x: x.div_(x.square() + 0.5)),
    "sum in place": in_place(lambda x: x.add_(x.flip(-1).relu())),
    "sum in place, then a rectifier": in_place(lambda x: x.add_(x.flip(-1).exp()).relu_()),
    "sum with a number in place": in_place(lambda x: x.add_(0.5).sigmoid_()),
    "sum in place with what a rule keeps": lambda x: (x := x * 1, y := x.tanh(), x.add_(y), x * y)[-1],
    "difference in place": in_place(lambda x: x.sub_(x.flip(-1).square()).tanh_()),
    "a constant added to in place": lambda x: A[0, 0].expand_as(x).clone().add_(x).relu(),
    "a constant subtracted from in place": lambda x: A[0, 0].expand_as(x).clone().sub_(x.exp()),
    "masked_fill in place": in_place(lambda x: x.masked_fill_(torch.eye(5).bool(), 0.25).tanh_()),
    "normalize": F.normalize,
    "norm": lambda x: x.norm(dim=1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, 3, dim=(1, 2)),
    "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std(1, correction=0, keepdim=True),
    "softmax": lambda x: F.softmax(x, 1),
    "Tensor.softmax": lambda x: x.softmax(dim=-1),
    "softmax of large logits": lambda x: torch.softmax(1e3 * x, 2),
    "softmin": lambda x: F.softmin(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, (1, 3)),
    "masked softmax": lambda x: x.masked_fill(torch.eye(5).bool(), -torch.inf).softmax(-1),
    "layer_norm": lambda x: F.layer_norm(x, (5, 5), A[0, 0].expand(5, 5), A[1, 1].expand(5, 5)),
    "layer_norm unweighted": lambda x: F.layer_norm(x, (5,)),
    "group_norm": lambda x: F.group_norm(x, 2, WEIGHTS, WEIGHTS),
    "instance_norm": lambda x: F.instance_norm(x, weight=WEIGHTS, bias=WEIGHTS),
    "rms_norm": lambda x: F.rms_norm(x, (5,), A[0, 0]),
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "overlapping max_pool2d": lambda x: F.max_pool2d(x, 3, 1, 1),
    "max_pool2d in ceil mode": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "dilated max_pool2d": lambda x: torch.max_pool2d(x, 2, 1, 0, 2),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool2d of torch.ops": lambda x: torch.ops.aten.max_pool2d_with_indices(x, 2, 1)[0],
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(1, 2), 3, 2),
    "max_pool3d": torch.nn.MaxPool3d(2, 1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (2, 3)),
    "adaptive_max_pool1d with indices": lambda x: F.adaptive_max_pool1d(x.flatten(1, 2), 3, return_indices=True)[0],
    "amax": lambda x: x.amax((1, 3)),
    "amax kept": lambda x: torch.amax(x, 2, keepdim=True),
    "amin": lambda x: x.amin((2, 3)),
    "max along": lambda x: x.max(1).values,
    "min along": lambda x: torch.min(x, 2, keepdim=True)[0],
    "max of all": lambda x: x[:, 0].amax((1, 2), keepdim=True) * x.max(),
    "maximum": lambda x: torch.maximum(x, x.flip(-1)),
    "minimum": lambda x: torch.min(x, x.flip(-1)),
    "maxout": lambda x: x.unflatten(1, (2, 2)).amax(2),
    "glu": lambda x: F.glu(x, 1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.flip(-1), x.exp()),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(5) > -1),
    "biased attention": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=A[0, 0].expand(5, 5), scale=1.0),
    "multi-head attention": lambda x: MULTI_HEAD(*[x.flatten(1, 2)] * 3, need_weights=False)[0],
    "multi-head attention with weights": lambda x: MULTI_HEAD(*[x.flatten(1, 2)] * 3)[0],
    "encoder layer": lambda x: ENCODER(x.flatten(1, 2)),
    "where": lambda x: torch.where(torch.eye(5) > 0, x.square(), x),
    "linear things": lambda x: F.interpolate(F.pad(x.roll(1, 2), (1, 1)), scale_factor=2, mode="bilinear").cumsum(1),
    "tokens first": lambda x: TOKENS_FIRST(*[x.flatten(2).movedim(1, 0)[:, :, :6]] * 3)[0].movedim(0, 1),
}
with torch.random.fork_rng():
    torch.manual_seed(5)
    MULTI_HEAD = torch.nn.MultiheadAttention(5, 1, batch_first=True, dtype=torch.float64).eval()
    TOKENS_FIRST = torch.nn.MultiheadAttention(6, 2, dtype=torch.float64).eval()
    ENCODER = torch.nn.TransformerEncoderLayer(5, 1, 7, batch_first=True, dtype=torch.float64).eval()


def multipliers(f, x, r, rules=RESCALE):
    """f's multipliers, all outputs weighted differently, and the weighted outputs of both passes."""
    leaf = x.clone().requires_grad_()
    with lent(rules) as lending:
        y = f(leaf * 1)
    weights = randn(*y.shape, seed=3).to(y)
    with lending.reference():
        y_r = f(r * 1)
    score = (y * weights).sum()
    assert not lending.uncovered
    assert not uncovered(score, [leaf], rules.by_gradient)
    return torch.autograd.grad(score, leaf)[0], (y.detach() * weights).flatten(1), (y_r * weights).flatten(1)


@pytest.fixture(params=["a row each", "one row", "partly equal", "zero"])
def pair(request):
    """An image batch (2, 4, 5, 5) and its reference."""
    x, r = randn(2, 4, 5, 5), randn(2, 4, 5, 5, seed=1)
    if request.param == "partly equal":
        r[:, 1:3, :3] = x[:, 1:3, :3]
    return x, {"one row": r[:1], "zero": torch.zeros_like(r[:1])}.get(request.param, r)


@pytest.mark.parametrize("f", [*ELEMENTWISE.values(), *OTHERS.values()], ids=[*ELEMENTWISE, *OTHERS])
def test_shares_add_up(f, pair):
    """sum m (x - r) = f(x) - f(r), for the whole batch, whatever rows an operation mixes."""
    x, r = pair
    m, y, y_r = multipliers(f, x, r.expand_as(x))
    difference = (y - y_r).nan_to_num(0).sum()
    assert torch.isfinite(m).all()
    assert abs((m * (x - r)).sum() - difference) <= 1e-11 * max(1, y.nan_to_num(0).abs().sum(), m.abs().sum())


ROWS_MIXED = {"bmm", "baddbmm", "addmm", "convolution by its own input", "max of all", "encoder layer"}


@pytest.mark.parametrize(
    "f",
    [f for name, f in OTHERS.items() if name not in ROWS_MIXED],
    ids=[name for name in OTHERS if name not in ROWS_MIXED],
)
def test_one_row_stands_for_all(f):
    x, r = randn(2, 4, 5, 5), randn(1, 4, 5, 5, seed=1)
    one, *_ = multipliers(f, x, r) if f is not OTHERS["tokens first"] else multipliers(f, x, r.expand_as(x))
    each, *_ = multipliers(f, x, r.expand_as(x))
    torch.testing.assert_close(one, each, rtol=0, atol=1e-12 * max(1, each.abs().max()))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_of_one_number_are_rescaled(name):
    """m = (f(x) - f(r)) / (x - r), number by number, and f' where x = r."""
    f = ELEMENTWISE[name]
    x, r = randn(2, 4, 5, 5), randn(2, 4, 5, 5, seed=1)
    r[0] = x[0]
    leaf = x.clone().requires_grad_()
    weights = randn(2, 4, 5, 5, seed=3)
    slope = torch.autograd.grad((f(leaf) * weights).sum(), leaf)[0]
    m, *_ = multipliers(f, x, r)
    torch.testing.assert_close(m[0], slope[0])
    torch.testing.assert_close(m[1], (weights * (f(x) - f(r)) / (x - r))[1], rtol=1e-9, atol=1e-12)


def test_rescaling_half_precision_divides_in_single():
    x, r = randn(2, 50).bfloat16(), (randn(2, 50) + 0.01 * randn(2, 50, seed=2)).bfloat16()
    m, *_ = multipliers(torch.sigmoid, x, r)
    assert m.dtype == torch.bfloat16 and m.isfinite().all()


def test_product_by_loops():
    x, r = randn(2, 3), randn(2, 3, seed=1)
    m, *_ = multipliers(lambda x: x[:, :1] * x[:, 1:], x, r)
    w = randn(2, 2, seed=3)
    for n in range(2):
        expected = [sum(w[n, j] * (x[n, j + 1] + r[n, j + 1]) / 2 for j in range(2))]
        expected += [w[n, j] * (x[n, 0] + r[n, 0]) / 2 for j in range(2)]
        torch.testing.assert_close(m[n], torch.stack(expected))


def test_overlapping_max_pool_by_loops():
    x, r = randn(1, 1, 6, 6), randn(1, 1, 6, 6, seed=1)
    m, *_ = multipliers(lambda x: F.max_pool2d(x, 3, 2, 1), x, r)
    w, expected = randn(1, 1, 3, 3, seed=3), torch.zeros(6, 6, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            window = [
                (a, b) for a in range(2 * i - 1, 2 * i + 2) for b in range(2 * j - 1, 2 * j + 2) if a >= 0 and b >= 0
            ]
            value = {id(t): max(t[0, 0, a, b] for a, b in window) for t in (x, r)}
            larger = x if value[id(x)] >= value[id(r)] else r
            a, b = max(window, key=lambda place: larger[0, 0, *place])
            share = (value[id(x)] - value[id(r)]) / (x[0, 0, a, b] - r[0, 0, a, b])
            expected[a, b] += w[0, 0, i, j] * share
            assert 0 <= share <= 1
    torch.testing.assert_close(m[0, 0], expected)


POOLED = {
    "overlapping": ((3, 2, 1), {}),
    "of stride its kernel": ((2,), {}),
    "dilated": ((2, 1, 0, 2), {}),
    "by name, in ceil mode": ((), {"kernel_size": (3, 2), "stride": (2, 2), "padding": (1, 0), "ceil_mode": True}),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("settings", POOLED)
def test_signals_of_a_pool_add_up_as_its_gradient_does_wherever_the_places_are(layout, settings):
    args, kwargs = POOLED[settings]
    x = randn(2, 3, 9, 8).contiguous(memory_format=layout)
    _, elsewhere = F.max_pool2d(randn(2, 3, 9, 8, seed=1), *args, **kwargs, return_indices=True)
    signal = randn(*elsewhere.shape, seed=2)
    spread = rescale.pool_spread(Bound("max_pool2d", F.max_pool2d, (x, *args), kwargs))
    expected = torch.zeros_like(x).flatten(2).scatter_add_(2, elsewhere.flatten(2), signal.flatten(2))
    torch.testing.assert_close(spread(signal, elsewhere, x), expected.view_as(x))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("settings", POOLED)
def test_a_gpu_adds_the_signals_of_a_pool_where_cores_do(layout, settings):
    args, kwargs = POOLED[settings]
    x, r = (randn(2, 3, 9, 8, seed=seed).contiguous(memory_format=layout) for seed in (0, 1))

    def pool(x):
        return F.max_pool2d(x, *args, **kwargs)

    (ours, *_), (cores, *_) = (multipliers(pool, x.to(device), r.to(device)) for device in ("cuda", "cpu"))
    torch.testing.assert_close(ours.cpu(), cores)


def test_softmax_shares_do_not_depend_on_batch_mates_or_shifts():
    x, r = randn(3, 5), randn(3, 5, seed=1)
    m, *_ = multipliers(lambda x: x.softmax(1), x, r)
    shifted, *_ = multipliers(lambda x: (x - 7).softmax(1), x, r)
    torch.testing.assert_close(m, shifted)
    leaf = x[1:2].clone().requires_grad_()
    with lent(RESCALE) as lending:
        y = leaf.softmax(1)
    with lending.reference():
        r[1:2].softmax(1)
    alone = torch.autograd.grad((y * randn(3, 5, seed=3)[1:2]).sum(), leaf)[0]
    torch.testing.assert_close(m[1:2], alone)
    torch.testing.assert_close(m.sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-15, rtol=0)


def test_layer_norm_stays_moderate_where_the_reference_is_constant():
    """The scale of a constant row is 1/sqrt(eps); halves of the symmetric product would be huge and cancel."""
    x = randn(2, 8)
    m, *_ = multipliers(lambda x: F.layer_norm(x, (8,), eps=1e-12), x, torch.zeros(2, 8, dtype=torch.float64))
    assert m.abs().max() < 10


def linear_layers():
    yield "linear", F.linear, randn(3, 6), randn(5, 6, seed=2), (-1,)
    yield "conv2d", lambda x, w, b: F.conv2d(x, w, b, 2, 1, groups=2), randn(2, 4, 5, 5), KERNEL, (-1, 1, 1)
    yield "conv1d", lambda x, w, b: F.conv1d(x, w, b, dilation=2), randn(2, 3, 9), randn(2, 3, 3, seed=2), (-1, 1)
    yield (
        "conv_transpose2d",
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2),
        randn(2, 3, 4, 4),
        randn(3, 2, 3, 3, seed=2),
        (-1, 1, 1),
    )


def shared_by_matrix(rule, x, w, b, g):
    """One row: relevance of the inputs (d,) from a dense matrix w (k, d), bias b (k,), signal g (k,), by loops over outputs."""
    z, credit = w @ x + b, torch.zeros_like(x)
    for j in range(len(z)):
        contributions, bias = w[j] * x, b[j]
        if isinstance(rule, Gamma):
            contributions, bias = (torch.where(z[j] * c > 0, (1 + rule.gamma) * c, c) for c in (contributions, bias))
        if isinstance(rule, Alpha1Beta0):
            contributions, bias = contributions.clamp(min=0), bias.clamp(min=0)
        if getattr(rule, "set_bias_to_zero", False):
            bias = torch.zeros(())
        total = contributions.sum() + bias
        eps = getattr(rule, "eps", 1e-9)
        credit += contributions * g[j] * z[j] / (total + (eps if total >= 0 else -eps))
    return credit


@pytest.mark.parametrize(
    "rule",
    [
        Epsilon(),
        Epsilon(0.3),
        Gamma(),
        Gamma(2.0, set_bias_to_zero=True),
        Alpha1Beta0(),
        Alpha1Beta0(set_bias_to_zero=True),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("layer", "x", "weight", "shape"), [case[1:] for case in linear_layers()], ids=[case[0] for case in linear_layers()]
)
def test_relevance_against_the_dense_matrix(rule, layer, x, weight, shape):
    """The layer written as a matrix, got from its jacobian, and the rule as a sum over its outputs."""
    outputs = layer(x, weight, None)
    channels = outputs.shape[-len(shape)]
    bias = randn(channels, seed=4)
    leaf = x.clone().requires_grad_()
    with lent(relevance(rule)) as lending:
        y = layer(leaf, weight, bias)
    g = randn(*y.shape, seed=5)
    (signal,) = torch.autograd.grad(y, leaf, g)
    for n in range(len(x)):
        w = torch.autograd.functional.jacobian(lambda row: layer(row, weight, None), x[n : n + 1]).reshape(
            outputs[n].numel(), -1
        )
        b = bias.reshape(shape).expand_as(outputs[n]).flatten()
        expected = shared_by_matrix(rule, x[n].flatten(), w, b, g[n].flatten())
        torch.testing.assert_close((leaf * signal)[n].flatten().detach(), expected, rtol=1e-7, atol=1e-9)
    left = float((g * y).detach().sum() - (leaf * signal).detach().sum())
    assert left == pytest.approx(float(sum(lending.absorbed.values())), abs=1e-9)


def relevances(f, x, rule=None, *, counts=True, **by_weight):
    leaf = x.clone().requires_grad_()
    with lent(relevance(rule or Epsilon(), **by_weight), counts=counts) as lending:
        y = f(leaf * 1)
    w = randn(*y.shape, seed=3)
    score = (y * w).sum()
    assert not uncovered(score, [leaf], lending.rules.by_gradient)
    (signal,) = torch.autograd.grad(score, leaf)
    return (leaf * signal).detach(), float(score), float(sum(lending.absorbed.values()))


@pytest.mark.parametrize("f", [*ELEMENTWISE.values(), *OTHERS.values()], ids=[*ELEMENTWISE, *OTHERS])
def test_relevance_is_conserved_up_to_what_is_absorbed(f):
    x = randn(2, 4, 5, 5)
    r, score, absorbed = relevances(f, x)
    assert abs(float(r.sum()) + absorbed - score) <= 1e-9 * max(1.0, float(r.abs().sum()), abs(score))
    torch.testing.assert_close(relevances(f, x, counts=False)[0], r, rtol=1e-12, atol=1e-12)  # nobody looks on


BEHIND = {
    "a norm alone": lambda conv, norm, x: norm(conv(x)),
    "a norm, and a sum beside it": lambda conv, norm, x: (z := conv(x), norm(z) + z)[1],
    "a norm that reads it twice": lambda conv, norm, x: (z := conv(x), norm(z) + norm(z * 1) + norm(z))[1],
    "a rectifier in place": lambda conv, norm, x: norm(conv(x).relu_()),
    "another norm": lambda conv, norm, x: norm(norm(conv(x))),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("eps", [1e-9, 0.5])
def test_an_output_is_damped_once_whoever_reads_it(behind, eps):
    """A norm damps its input together with its output only where nothing else reads that input."""
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 3, 3).double(), torch.nn.BatchNorm2d(3).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x, f = randn(2, 3, 6, 6), functools.partial(behind, conv, norm)
    one_by_one, score, absorbed = relevances(f, x, Epsilon(eps))
    assert abs(float(one_by_one.sum()) + absorbed - score) <= 1e-9 * float(one_by_one.abs().sum())
    torch.testing.assert_close(relevances(f, x, Epsilon(eps), counts=False)[0], one_by_one, rtol=1e-12, atol=1e-12)


def test_relevance_of_sums_products_and_gates():
    x = randn(2, 6).abs() + 0.1
    r, *_ = relevances(lambda x: x[:, :3] + x[:, 3:], x)  # in proportion
    g = randn(2, 3, seed=3)
    torch.testing.assert_close(r, x * torch.cat([g, g], 1))
    r, *_ = relevances(lambda x: x[:, :3] * x[:, 3:], x)  # halves
    half = g * x[:, :3] * x[:, 3:] / 2
    torch.testing.assert_close(r, torch.cat([half, half], 1))
    r, *_ = relevances(lambda x: x[:, :3] * torch.sigmoid(x[:, 3:]), x)  # a gate takes none
    torch.testing.assert_close(r, torch.cat([g * x[:, :3] * x[:, 3:].sigmoid(), torch.zeros_like(g)], 1))


def test_relevance_identity_and_a_rule_for_one_weight():
    x, w, v = randn(2, 4), randn(4, 4, seed=1), randn(3, 4, seed=2)
    g = randn(2, 3, seed=3)
    expected = torch.stack([shared_by_matrix(Epsilon(), F.linear(x, w)[n], v, torch.zeros(3), g[n]) for n in range(2)])
    r, *_ = relevances(lambda x: F.linear(F.linear(x, w), v), x, by_weight={id(w): Identity()})
    torch.testing.assert_close(r, expected, rtol=1e-7, atol=1e-9)


RECTIFIERS = {
    "relu": (F.relu, lambda x: (x > 0).double()),
    "relu6": (F.relu6, lambda x: ((x > 0) & (x < 6)).double()),
    "hardtanh(0, 6)": (torch.nn.ReLU6(inplace=True), lambda x: ((x > 0) & (x < 6)).double()),
    "clamp(min=0)": (lambda x: x.clamp(min=0), lambda x: (x > 0).double()),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), lambda x: torch.where(x > 0, 1.0, 0.1).double()),
    "silu": (F.silu, lambda x: (x.sigmoid() * (1 + x * (1 - x.sigmoid()))).clamp(min=0)),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_guided_and_deconvolved_at_a_rectifier(name):
    f, slope = RECTIFIERS[name]
    x, g = 4 * randn(3, 7), randn(3, 7, seed=1)
    for rules, expected in ((GUIDED, g.clamp(min=0) * slope(x)), (DECONVOLVED, g.clamp(min=0))):
        leaf = x.clone().requires_grad_()
        with lent(rules):
            y = f(leaf * 1)
        torch.testing.assert_close(torch.autograd.grad(y, leaf, g)[0], expected)


@pytest.mark.parametrize("f", [torch.sigmoid, torch.tanh, F.hardtanh, lambda x: x.clamp(-1, 1)])
def test_gates_are_no_rectifiers(f):
    x = randn(3, 7).requires_grad_()
    g = randn(3, 7, seed=1)
    with lent(GUIDED):
        y = f(x)
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(f(x), x, g)[0])


@pytest.mark.parametrize("f", [*ELEMENTWISE.values(), *OTHERS.values()], ids=[*ELEMENTWISE, *OTHERS])
@pytest.mark.parametrize("rules", [RESCALE, relevance(Gamma()), GUIDED], ids=lambda rules: rules.name)
def test_rules_do_not_change_what_is_computed(f, rules):
    x = randn(2, 4, 5, 5)
    with lent(rules):
        y = f(x.clone().requires_grad_() * 1)
    torch.testing.assert_close(y.detach(), f(x * 1).detach(), rtol=1e-12, atol=1e-12)
