"""A Site's four verbs agree with each other and with autograd written by hand, wherever credit lands."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from attribution.errors import LayerError, ModelError
from attribution.hooks import Place
from attribution.layer import Layer
from attribution.passes import Passes
from attribution.site import Input, Score, neuron
from attribution.tail import Tail
from attribution.through import Through

EXACT = {"rtol": 0, "atol": 1e-14}  # float64, the same operations in the same order


def by_hand(model, layer, x, target):
    """Activation of a layer and the gradient of the target's logit by it, with a plain hook."""
    kept = []
    handle = layer.register_forward_hook(
        lambda _m, _i, output: kept.append(output.clone().requires_grad_()) or kept[-1].clone()
    )
    logits = model(x)
    handle.remove()
    score = logits[torch.arange(len(x)), target]
    return score.detach(), kept[0].detach(), torch.autograd.grad(score.sum(), kept[0])[0]


def test_the_input_s_gradient_is_autograd_s(model, x, target):
    leaf = x.clone().requires_grad_()
    score = model(leaf)[torch.arange(len(x)), target]
    point = Input(Score(model=model, target=target)).at(x)
    torch.testing.assert_close(point.score, score.detach(), **EXACT)
    torch.testing.assert_close(point.gradient, torch.autograd.grad(score.sum(), leaf)[0], **EXACT)
    assert point.features is not x and torch.equal(point.features, x)


@pytest.mark.parametrize("name", ["stem", "norm", "relu1", "pool", "block", "relu2", "tail", "relu3"])
def test_a_layer_s_answers_are_a_hook_s(model, x, target, name):
    layer = model.get_submodule(name)
    site = Layer(Score(model=model, target=target), layer)
    score, activation, gradient = by_hand(model, layer, x, target)
    point = site.at(x)
    torch.testing.assert_close(point.score, score, **EXACT)
    torch.testing.assert_close(point.features, activation, **EXACT)
    torch.testing.assert_close(point.gradient, gradient, **EXACT)
    torch.testing.assert_close(site.features(x), activation, **EXACT)


@pytest.mark.parametrize("rows_per_pass", [None, 1, 3])
@pytest.mark.parametrize("name", ["stem", "relu1", "block", "relu3"])
def test_a_tail_continues_what_the_layer_began(model, x, target, name, rows_per_pass):
    site = Layer(Score(model=model, target=target), model.get_submodule(name), Passes(rows_per_pass))
    tail = site.tail(x)
    assert isinstance(tail, Tail)
    features = site.features(x)
    torch.testing.assert_close(tail.score(features), site.score(x), **EXACT)
    torch.testing.assert_close(tail.gradient(features), site.gradient(x), **EXACT)
    # away from x the rest of the network stays as it is at x: the hook that only replaces is the reference
    moved = features + 0.1
    tail_by_hook = Tail(site, x)
    tail_by_hook.path = "hook"
    torch.testing.assert_close(tail.gradient(moved), tail_by_hook.gradient(moved), **EXACT)
    assert tail.path == "replay"


class CountsConvolutions(TorchDispatchMode):
    """Sees what is really computed, below all torch function modes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def test_a_replayed_tail_does_not_compute_the_front_again(model, x, target):
    site = Layer(Score(model=model, target=target), model.block)
    tail, features = site.tail(x), site.features(x)
    tail.gradient(features)  # records the front
    with CountsConvolutions() as computed:
        tail.gradient(features)
    assert computed.count == 1  # of the three only the one behind the block


class Overwrites(nn.Module):
    """Adds into a tensor made before the layer: its record can't be used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        skip = self.first(x)
        out = self.layer(skip)
        skip += out
        return self.last(skip)


@torch.jit.script
def scripted_relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


class Escapes(nn.Module):
    """Calls TorchScript, whose operations torch function modes do not see."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        skip = scripted_relu(self.first(x))
        return self.last(self.layer(skip) + skip)


@pytest.mark.parametrize("make", [Overwrites, Escapes])
def test_a_front_that_can_t_be_replayed_is_run_instead(make):
    torch.manual_seed(0)
    model = make().double().eval()
    x, target = torch.randn(3, 6).double(), torch.tensor([0, 1, 2])
    site = Layer(Score(model=model, target=target), model.layer)
    tail = site.tail(x)
    torch.testing.assert_close(tail.gradient(site.features(x)), site.gradient(x), **EXACT)
    assert tail.path == "hook"


class Inside(nn.Module):
    """Some calls before the layer, made in a module of their own, that answer with the last."""

    def __init__(self, inner):
        super().__init__()
        self.first, self.second, self.inner = nn.Linear(6, 6), nn.Linear(6, 6), inner
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return self.inner(self, self.second(self.first(x).relu()))


class Whole(nn.Module):
    """A front of one module, a layer, and something behind that reads what `left` finds of the front beside the layer."""

    def __init__(self, inner=lambda _inside, y: y, left=lambda _front: 0.0):
        super().__init__()
        self.front, self.layer, self.last, self.left = Inside(inner), nn.Linear(6, 6), nn.Linear(6, 3), left

    def forward(self, x):
        skip = self.front(x)
        return self.last(self.layer(skip) * skip.tanh() + self.left(self.front))


def keeping(name, value, answer=lambda y: y + 1):
    """An inner part that leaves something on its module besides its answer."""

    def inner(inside, y):
        setattr(inside, name, value(y))
        return answer(y)

    return inner


def listing(inside, y):
    inside.__dict__.setdefault("seen", []).append(y)
    return y


ELSEWHERE = []


def telling(_inside, y):
    ELSEWHERE[:] = [y * 2]
    return y


def escaped(_inside, y):
    return scripted_relu(y)


def walked(model):
    """The gradients of two passes behind the layer, of rows that differ, and the same from the whole model."""
    torch.manual_seed(0)
    model, x, target = model.double().eval(), torch.randn(4, 6).double(), torch.tensor([0, 1, 2, 0])
    site = Layer(Score(model=model, target=target), model.layer, Passes(2))
    tail, by_hook = site.tail(x), site.tail(x)
    by_hook.path = "hook"
    moved = site.features(x) + 0.1
    expected = by_hook.gradient(moved)
    tail.gradient(moved)  # records both fronts
    runs = model.front.runs
    torch.testing.assert_close(tail.gradient(moved), expected, **EXACT)
    assert tail.path == "replay"
    assert "forward" not in vars(model.front)
    return model.front.runs - runs


@pytest.mark.parametrize("inner", [lambda _inside, y: y, lambda _inside, y: y.relu_(), escaped])
def test_a_module_before_the_layer_is_answered_whole(inner):
    assert walked(Whole(inner)) == 0


@pytest.mark.parametrize(
    ("inner", "left", "runs"),
    [
        (keeping("stash", lambda y: y * 2), lambda front: front.stash, 2),  # a tensor of these rows
        (keeping("stash", lambda y: y, lambda y: y), lambda front: front.stash.exp(), 2),  # the answer itself
        (listing, lambda front: front.seen[-1].exp(), 2),
        (telling, lambda _front: ELSEWHERE[0], 2),
        (keeping("scale", lambda y: y.abs().max().item()), lambda front: front.scale, 2),  # a number of these rows
        (keeping("width", lambda y: y.shape[1]), lambda front: front.width, 0),  # the same of all rows
    ],
)
def test_a_module_that_leaves_something_of_its_rows_on_the_side_is_run(inner, left, runs):
    assert walked(Whole(inner, left)) == runs


class Adding(Inside):
    """Adds its answer to a list that it is called with."""

    def forward(self, x, skips):
        skips.append(super().forward(x))
        return skips[-1]


class Handing(Whole):
    def __init__(self):
        super().__init__()
        self.front = Adding(lambda _inside, y: y)

    def forward(self, x):
        skips = []
        return self.last(self.layer(self.front(x, skips)) * skips[0].tanh())


def test_a_module_that_may_write_into_what_it_is_called_with_is_run():
    assert walked(Handing()) == 2


def test_a_module_with_a_hook_inside_is_run():
    model, seen = Whole(), []
    model.front.second.register_forward_hook(lambda _m, _i, output: seen.append(output) or output * 2)
    assert walked(model) == 2
    assert seen


def test_a_module_called_twice_is_run():
    model = Whole()
    model.front = nn.Sequential(twice := Inside(lambda _inside, y: y), twice)
    model.front.runs = 0  # the sequence itself is called once, and answered whole
    walked(model)
    model = Whole(left=lambda front: front(torch.ones(1, 6).double()).sum())  # again behind the layer
    assert walked(model) == 4


def test_a_walk_is_told_pass_by_pass_and_step_by_step(model, x, target):
    told = []
    site = Input(Score(model=model, target=target), Passes(3, told.append))
    steps = [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0)]
    start = torch.full_like(x[:1], 0.3)
    walked = site.mean_gradient(start, x - start, steps)
    assert told == [3, 3, 3, 1, 1, 1]  # of four images
    expected = sum(weight * site.gradient(start + alpha * (x - start)) for alpha, weight in steps)
    torch.testing.assert_close(walked, expected, **EXACT)


def test_one_baseline_for_all_images_is_passed_once(model, x, target):
    rows = []
    model.stem.register_forward_pre_hook(lambda _m, inputs: rows.append(len(inputs[0])))
    baseline = torch.full((1, 3, 12, 10), 0.3, dtype=torch.float64)
    for site in (Input(Score(model=model, target=target)), Layer(Score(model=model, target=target), model.block)):
        expected = site.score(baseline.repeat(4, 1, 1, 1))
        rows.clear()
        torch.testing.assert_close(site.score(baseline.expand(4, 3, 12, 10)), expected, rtol=0, atol=1e-14)
        assert rows == [1]
    features = Layer(Score(model=model, target=target), model.block).features(x)
    tail = Layer(Score(model=model, target=target), model.block).tail(x)
    same = features[:1].expand(4, 6, 6, 5)  # one activation, four images: the skip connection tells them apart
    torch.testing.assert_close(tail.score(same), tail.score(same.contiguous()), rtol=0, atol=1e-14)


def test_a_layer_s_features_come_from_the_pass_that_recorded_its_tail(model, x, target):
    site = Layer(Score(model=model, target=target), model.block)
    expected = site.features(x)
    site.tail(x).score(expected)
    with CountsConvolutions() as computed:
        torch.testing.assert_close(site.features(x), expected, **EXACT)
    assert computed.count == 0


def test_a_neuron_is_a_score(model, x):
    site = Input(neuron(model, model.block, (1, 2, 3)))
    kept = []
    model.block.register_forward_hook(lambda _m, _i, output: kept.append(output))
    leaf = x.clone().requires_grad_()
    model(leaf)
    expected = kept[-1][:, 1, 2, 3]
    torch.testing.assert_close(site.score(x), expected.detach(), **EXACT)
    torch.testing.assert_close(site.gradient(x), torch.autograd.grad(expected.sum(), leaf)[0], **EXACT)


def test_what_flows_through_all_neurons_of_a_chokepoint_is_the_whole_gradient(model, x, target):
    """The chain rule: d score/d x is the sum over the neurons of a layer that everything passes."""
    score = Score(model=model, target=target)
    through = [Through(score, Place(model.head), (i,)).gradient(x) for i in range(5)]
    torch.testing.assert_close(sum(through), Input(score).gradient(x), rtol=0, atol=1e-12)


class Repeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.first, self.last = nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.relu(self.first(self.relu(x))))


def test_a_layer_called_twice_is_refused_unless_a_call_is_named():
    torch.manual_seed(0)
    model = Repeats().double().eval()
    x, score = torch.randn(2, 6).double(), Score(model=model, target=torch.tensor([0, 1]))
    with pytest.raises(LayerError, match="several times"):
        Layer(score, model.relu).features(x)
    torch.testing.assert_close(Layer(score, Place(model.relu, call=0)).features(x), x.relu(), **EXACT)
    last = Layer(score, Place(model.relu, call=-1))
    torch.testing.assert_close(last.features(x), model.first(x.relu()).relu().detach(), **EXACT)
    torch.testing.assert_close(last.tail(x).gradient(last.features(x)), last.gradient(x), **EXACT)


class Tuples(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        out, _ = self.attention(x, x, x, need_weights=False)
        return self.last(out.mean(1))


def test_a_layer_that_returns_tensor_and_none_is_credited_for_its_tensor():
    torch.manual_seed(0)
    model = Tuples().double().eval()
    x = torch.randn(2, 5, 8).double()
    point = Layer(Score(model=model, target=torch.tensor([0, 2])), model.attention).at(x)
    torch.testing.assert_close(point.gradient, (model.last.weight[[0, 2]] / 5)[:, None].expand(2, 5, 8), **EXACT)


def test_a_layer_s_input_can_be_credited(model, x, target):
    site = Layer(Score(model=model, target=target), Place(model.block, at_input=True))
    torch.testing.assert_close(site.features(x), Layer(site.explained, model.pool).features(x), **EXACT)
    torch.testing.assert_close(site.tail(x).gradient(site.features(x)), site.gradient(x), **EXACT)


def test_a_layer_that_is_not_reached_is_named(x, target):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.never, self.head = nn.Linear(2, 2), nn.Linear(360, 5)

        def forward(self, x):
            return self.head(x.flatten(1))

    model = Unused().double().eval()
    with pytest.raises(LayerError, match=r"Linear.*not reached"):
        Layer(Score(model=model, target=target), model.never).features(x)


def test_a_model_without_a_graph_is_an_error_and_not_a_zero(x, target):
    with pytest.raises(ModelError, match="differentiated"):
        Input(Score(model=lambda x: x.detach().flatten(1), target=target)).gradient(x)


def test_rows_are_the_same_site_for_some_images(model, x, target):
    score, index = Score(model=model, target=target), torch.tensor([2, 0])
    for site in (Input(score), Layer(score, model.block), Through(score, model.head, (1,))):
        torch.testing.assert_close(site.rows(index).gradient(x[index]), site.gradient(x)[index], **EXACT)
    tail = Layer(score, model.block).tail(x)
    features = Layer(score, model.block).features(x)
    torch.testing.assert_close(tail.rows(index).gradient(features[index]), tail.gradient(features)[index], **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_models_give_float32_gradients(model, x, target, dtype):
    low = model.to(dtype)
    site = Input(Score(model=low, target=target, dtype=dtype))
    assert site.gradient(x.float()).dtype == torch.float32
    assert Layer(site.explained, low.block).gradient(x.float()).dtype == torch.float32
    assert site.score(x.float()).dtype == torch.float32
