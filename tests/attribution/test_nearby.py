"""Images that differ from known ones in a box score as they do when they are passed whole, and cost less."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attribution.methods.feature_ablation import FeatureAblation
from attribution.methods.occlusion import Occlusion
from attribution.nearby import Nearby, Variant
from attribution.passes import Passes
from attribution.patch_rules import changed
from attribution.patches import Box, Call, Patch
from attribution.score import Score, neuron
from attribution.site import Input

SIDE = 24


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def boxes(draw, side=SIDE):
    ends = [sorted(draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for _ in "yx"]
    return Box(*ends[0], *ends[1])


@st.composite
def kernels(draw):
    size, padding = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(0, 2))
    return {
        "size": size,
        "stride": draw(st.integers(1, 3)),
        "padding": min(padding, size // 2),
        "dilation": draw(st.integers(1, 2)),
    }


WEIGHT, SCALE = nn.Parameter(maps(1, 4, 1, 1, seed=5)), nn.Parameter(maps(4, 1, 1, seed=6))

OPERATIONS = {
    "conv2d": lambda k: (
        torch.conv2d,
        (maps(6, 2, k["size"], k["size"], seed=2), maps(6, seed=3), k["stride"], k["padding"], k["dilation"], 2),
        {},
    ),
    "max_pool2d": lambda k: (
        F.max_pool2d,
        (k["size"], k["stride"], k["padding"], k["dilation"]),
        {},
    ),
    "avg_pool2d": lambda k: (F.avg_pool2d, (k["size"],), {"stride": k["stride"]}),
    "pad": lambda k: (F.pad, ((k["padding"], 0, 1, k["size"]),), {"value": 0.5}),
    "silu": lambda _: (F.silu, (), {}),
    "batch_norm": lambda _: (F.batch_norm, (maps(4, seed=7), maps(4, seed=8).abs() + 0.1), {}),
    "mul": lambda _: (torch.mul, (WEIGHT,), {}),
    "add": lambda _: (torch.add, (SCALE,), {"alpha": 2}),
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(OPERATIONS)), boxes(), kernels())
def test_an_operation_on_a_patch_is_the_whole_map_s(name, box, kernel):
    around, (function, arguments, named) = maps(2, 4, SIDE, SIDE), OPERATIONS[name](kernel)
    whole = around.clone()
    box.of(whole).copy_(maps(2, 4, SIDE, SIDE, seed=1)[..., : box.bottom - box.top, : box.right - box.left])
    before, after = (function(map_, *arguments, **named) for map_ in (around, whole))
    told = changed(Call(name, function, (Patch(box.of(whole), box, around), *arguments), named))
    if told is None:  # a stride goes past the box
        assert torch.equal(before, after)
        return
    inside, place = told
    torch.testing.assert_close(Patch(inside, place, before).whole(), after, rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(boxes(), boxes())
def test_two_maps_meet_in_a_box_around_both(one, other):
    around = [maps(2, 4, SIDE, SIDE, seed=seed) for seed in (0, 1)]
    patches = [
        Patch(box.of(maps(2, 4, SIDE, SIDE, seed=9)), box, map_) for box, map_ in zip((one, other), around, strict=True)
    ]
    for name, function, given_ in (
        ("add", torch.add, tuple),
        ("mul", torch.mul, tuple),
        ("cat", torch.cat, lambda each: (list(each), 1)),
    ):
        inside, box = changed(Call(name, function, given_(patches), {}))
        whole = Patch(inside, box, function(*given_(around))).whole()
        torch.testing.assert_close(whole, function(*given_([patch.whole() for patch in patches])), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "function", "others", "named"),
    [
        ("conv2d", torch.conv2d, (maps(4, 4, 3, 3), None, 1, "same"), {}),
        ("max_pool2d", F.max_pool2d, (3, 2, 0, 1, True), {}),
        ("max_pool2d", F.max_pool2d, (3,), {"return_indices": True}),
        ("avg_pool2d", F.avg_pool2d, (3, 2, 1), {}),
        ("pad", F.pad, ((1, 1, 1, 1), "reflect"), {}),
        ("pad", F.pad, ((-1, 1),), {}),
        ("batch_norm", F.batch_norm, (None, None, None, None, True), {}),
        ("cat", torch.cat, (), {"dim": 2}),
        ("mul", torch.mul, (maps(2, 4, 1, 1),), {}),  # may differ from pass to pass
        ("mul", torch.mul, (nn.Parameter(maps(SIDE)),), {}),  # is not the same at every pixel
        ("mean", torch.mean, ((2, 3),), {}),
    ],
)
def test_what_has_to_see_whole_maps_says_so(name, function, others, named):
    box = Box(2, 5, 3, 9)
    patch = Patch(maps(2, 4, 3, 6), box, maps(2, 4, SIDE, SIDE))
    assert changed(Call(name, function, ([patch] if name == "cat" else patch, *others), named)) is None


class Residual(nn.Module):
    """Convolutions with everything between them that models do."""

    def __init__(self, after):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.short, self.norm = nn.Conv2d(8, 8, 1, stride=2), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.gain = nn.Parameter(torch.randn(8, 1, 1, generator=generator))
        self.after = after

    def forward(self, x):
        x = self.one(x)
        y = F.relu_(self.norm(self.two(F.dropout(F.relu(x), 0.5, training=False))))
        y += self.short(x)
        return self.head(self.after(self, y.relu_()).mean((2, 3)))


def excited(_, x):
    return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


def read_before_it_is_written(_, x):
    pooled = F.max_pool2d(x, 3, 1, 1)
    x += 1
    return torch.cat([pooled, x.relu_()], 1)[:, 4:12]


def written_through_a_view(_, x):
    x[:, :4].mul_(2)
    return x


def rows_of_pixels(_, x):
    return x.flatten(2).softmax(1).reshape(x.shape)


def weighed(model, x):
    return torch.add(x, x * model.gain, alpha=2)


def deconvolved(_, x):
    return F.conv_transpose2d(x, maps(8, 8, 2, 2), stride=2)


AFTERS = [excited, read_before_it_is_written, written_through_a_view, rows_of_pixels, weighed, deconvolved]


def whole_images(monkeypatch):
    monkeypatch.setattr(Nearby, "of", classmethod(lambda *_: None))


@pytest.mark.parametrize("after", AFTERS)
@pytest.mark.parametrize("method", [Occlusion(window=6, stride=3), FeatureAblation(regions="grid(4)")])
def test_maps_are_those_of_images_that_are_passed_whole(after, method, monkeypatch):
    model, x, target = Residual(after).eval(), maps(5, 3, SIDE, SIDE), torch.arange(5) % 4
    for score in (Score(model=model, target=target), neuron(model, model.two, (3, 4, 5))):
        maps_of = []
        for rows in (2, None):
            maps_of.append(asked(method, score, x, rows))
        with monkeypatch.context() as patch:
            whole_images(patch)
            maps_of.append(asked(method, score, x, 2))
        torch.testing.assert_close(maps_of[0], maps_of[2], rtol=0, atol=1e-11)
        torch.testing.assert_close(maps_of[1], maps_of[2], rtol=0, atol=1e-11)
        assert maps_of[2].abs().max() > 1e-3


def asked(method, score, x, rows):
    site, needs = Input(score, Passes(rows)), {"baseline": x[:1].flip(2)}
    if isinstance(method, FeatureAblation):
        cells = torch.arange(SIDE) // 6
        needs["mask"] = (4 * cells[:, None] + cells).expand(1, 1, SIDE, SIDE)
    return method.attribute(site, x, **needs)


def variants(x, size=6):
    def covered(box):
        def of(rows):
            shown = x[rows].clone()
            box.of(shown).zero_()
            return shown

        return Variant(of, box)

    starts = range(0, SIDE, size)
    return [covered(Box(top, top + size, left, left + size)) for top in starts for left in starts]


def test_it_takes_fewer_operations():
    model, x = Residual(weighed).eval(), maps(4, 3, SIDE, SIDE)
    score, shown = Score(model=model, target=torch.zeros(4, dtype=torch.int64)), variants(x, 4)[9]
    near = Nearby.of(score, x, variants(x, 4))
    counts = []
    for compute in (lambda: score(shown.of(slice(0, 4))), lambda: near.score(shown.of(slice(0, 4)), shown.box)):
        with FlopCounterMode(display=False) as counter:
            compute()
        counts.append(counter.get_total_flops())
    assert counts[1] < counts[0] / 4


def test_boxes_may_outgrow_the_smallest_anywhere(caplog):
    """A box in the middle covers the map earlier than one in a corner, right before a rectifier that writes in place too."""
    torch.manual_seed(0)
    layers = [layer for _ in range(9) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True))]
    model, x = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), maps(2, 3, SIDE, SIDE)
    site = Input(Score(model=model, target=torch.tensor([0, 1])))
    with caplog.at_level(logging.INFO, "attribution.nearby"), FlopCounterMode(display=False) as near:
        told = site.scores(x, variants(x, 4))
    with FlopCounterMode(display=False) as plain:
        whole = torch.stack([site.score(variant.of(slice(0, 2))) for variant in variants(x, 4)], 1)
    torch.testing.assert_close(told, whole, rtol=0, atol=1e-14)
    assert caplog.text == ""
    assert near.get_total_flops() < 0.7 * plain.get_total_flops()


class Branching(nn.Module):
    """Goes another way where an image is bright, and through a script that no torch function mode sees."""

    def __init__(self, *, scripted):
        super().__init__()
        self.inner = Residual(weighed)
        self.scripted = scripted

    def forward(self, x):
        if float(x.mean()) > 0:
            x = F.avg_pool2d(x, 1)
        return self.inner(unseen(x) if self.scripted else x)


@torch.jit.script
def unseen(x: torch.Tensor) -> torch.Tensor:
    return x.mul(2.0)


@pytest.mark.parametrize(
    ("scripted", "says"), [(False, "where it had called"), (True, "has read what patches do not tell")]
)
def test_models_that_cannot_be_patched_are_passed_whole(scripted, says, caplog):
    model, x = Branching(scripted=scripted).eval(), maps(2, 3, SIDE, SIDE)
    x += 1e-3 - x.mean()  # bright until a bright part is covered
    site = Input(Score(model=model, target=torch.tensor([0, 1])))
    with caplog.at_level(logging.INFO, "attribution.nearby"):
        told = site.scores(x, variants(x))
    plain = torch.stack([site.score(variant.of(slice(0, 2))) for variant in variants(x)], 1)
    torch.testing.assert_close(told, plain, rtol=0, atol=1e-12)
    assert says in caplog.text


def test_a_model_that_dislikes_placeholders_is_passed_whole_and_its_own_mistakes_are_told(caplog):
    def picky(x):
        if x.stride(0) == 0 and x.shape[0] > 1:
            raise ValueError("a batch that shares memory")
        return Residual(weighed).eval()(x)

    x = maps(2, 3, SIDE, SIDE)
    site = Input(Score(model=picky, target=torch.tensor([0, 1])))
    with caplog.at_level(logging.INFO, "attribution.nearby"):
        told = site.scores(x, variants(x))
    plain = torch.stack([site.score(variant.of(slice(0, 2))) for variant in variants(x)], 1)
    torch.testing.assert_close(told, plain, rtol=0, atol=0)
    assert "does not run on placeholders" in caplog.text
    with pytest.raises(ZeroDivisionError):
        Input(Score(model=lambda x: x / 0 if x.dim() > 9 else 1 // 0)).scores(x, variants(x))


def test_each_variant_is_a_pass_and_said_to_be_one():
    x, heard = maps(5, 3, SIDE, SIDE), []
    site = Input(Score(model=Residual(weighed).eval(), target=torch.arange(5) % 4), Passes(2, on_pass=heard.append))
    site.scores(x, variants(x))
    assert sum(heard) == 5 * len(variants(x))


def test_a_score_that_is_zero_everywhere_agrees_with_itself():
    x = maps(2, 3, SIDE, SIDE)
    near = Nearby.of(lambda x: 0 * F.conv2d(x, maps(1, 3, 3, 3)).sum((1, 2, 3)), x, variants(x))
    (shown, box), zero = (variants(x)[5].of(slice(0, 2)), variants(x)[5].box), torch.zeros(2)
    assert near.agrees(shown, box, zero)
    assert not near.agrees(shown, box, zero + 1e-3)


@pytest.mark.parametrize("size", [12, 24])
def test_large_changes_are_passed_whole(size):
    x = maps(2, 3, SIDE, SIDE)
    score = Score(model=Residual(weighed).eval(), target=torch.zeros(2, dtype=torch.int64))
    assert (Nearby.of(score, x, variants(x, size)) is None) is (size == 24 or len(variants(x, size)) < 4)


def test_half_precision_stays_as_close_as_it_is():
    model, x = Residual(weighed).eval().bfloat16(), maps(3, 3, SIDE, SIDE).float()
    site = Input(Score(model=model, target=torch.zeros(3, dtype=torch.int64), dtype=torch.bfloat16), Passes(3))
    told = site.scores(x, variants(x))
    plain = torch.stack([site.score(variant.of(slice(0, 3))) for variant in variants(x)], 1)
    assert told.dtype == torch.float32
    torch.testing.assert_close(told, plain, rtol=0.02, atol=float(plain.abs().max()) * 0.02)
