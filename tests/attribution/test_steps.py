"""Each step of a preparation finds the places where it computes the same, and no others."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from attribution.clamp import InPlaceHardtanh
from attribution.explain import Images, explain, resolve
from attribution.prepare import compiled, difference, prepare
from attribution.question import parse
from attribution.seen import Seen
from attribution.steps import (
    pads_before_convolutions,
    rectifiers_to_write_in_place,
    with_padding_folded,
    with_rectifiers_in_place,
)


class Padded(nn.Module):
    """A padding before a convolution, both of any form, and a second reader of the padded image if that is wanted."""

    def __init__(self, sides, convolution, *, is_read_twice=False):
        super().__init__()
        self.pad, self.conv, self.is_read_twice = nn.ZeroPad2d(sides), convolution, is_read_twice

    def forward(self, x):
        y = self.pad(x)
        return self.conv(y).mean((2, 3)) + (y.sum((1, 2, 3))[:, None] if self.is_read_twice else 0)


class PadsItself(nn.Conv2d):
    """As in efficientnet_lite: the padding is a module of the convolution."""

    def __init__(self, sides, *args, **settings):
        super().__init__(*args, **settings)
        self.static_padding = nn.ZeroPad2d(sides)

    def forward(self, x):
        return functional.conv2d(
            self.static_padding(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def depthwise(size, stride=1, **settings):
    return nn.Conv2d(3, 6, size, stride, groups=3, **settings)


def ready(model):
    return model.double().eval().requires_grad_(requires_grad=False)


FOLDED = {
    "as wide on both sides": lambda: Padded((1, 1, 2, 2), nn.Conv2d(3, 4, 3)),
    "dilated": lambda: Padded((2, 2, 2, 2), nn.Conv2d(3, 4, 3, dilation=2)),
    "wider behind": lambda: Padded((0, 1, 0, 1), depthwise(3, 2)),
    "wider before": lambda: Padded((2, 1, 3, 0), depthwise(5, 2)),
    "wider behind, of few channels": lambda: Padded((0, 1, 0, 1), nn.Conv2d(3, 4, 3, 2)),
    "each side by itself": lambda: Padded((1, 1, 0, 2), depthwise(3)),
    "inside the convolution": lambda: nn.Sequential(PadsItself((1, 1, 1, 1), 3, 4, 3), nn.Flatten()),
}
KEPT = {
    "sides that differ, neither depthwise nor of few channels": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1), Padded((0, 1, 0, 1), nn.Conv2d(6, 4, 3, 2))
    ),
    "sides that differ, dilated": lambda: Padded((0, 1, 0, 1), depthwise(3, dilation=2)),
    "a convolution that pads already": lambda: Padded((1, 1, 1, 1), nn.Conv2d(3, 4, 3, padding=1)),
    "a convolution that reflects": lambda: Padded((1, 1, 1, 1), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
    "a padding that crops": lambda: Padded((-1, -1, -1, -1), nn.Conv2d(3, 4, 3)),
    "a padding that is read twice": lambda: Padded((1, 1, 1, 1), nn.Conv2d(3, 4, 3), is_read_twice=True),
}


@pytest.mark.parametrize("size", [(12, 10), (11, 13)])
@pytest.mark.parametrize("make", FOLDED.values(), ids=FOLDED)
def test_a_padding_is_done_by_its_convolution(make, size):
    torch.manual_seed(0)
    model, x = ready(make()), torch.randn(2, 3, *size, dtype=torch.float64)
    before = model(x)
    pairs = pads_before_convolutions(model, Seen.passing(model, x))
    assert len(pairs) == 1
    with_padding_folded(model, pairs)
    assert not any(isinstance(module, nn.ZeroPad2d) for module in model.modules())
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-14)  # sums in another order


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_other_paddings_stay(make, x):
    model = ready(make())
    assert pads_before_convolutions(model, Seen.passing(model, x)) == []


def test_a_convolution_that_is_called_twice_keeps_its_padding(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pad, self.conv = nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(self.conv(self.pad(x))).mean((2, 3))

    model = ready(Twice())
    assert pads_before_convolutions(model, Seen.passing(model, x)) == []


class Rectified(nn.Module):
    """Rectifiers that may write over their input, and others that may not."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.after_norm, self.after_sum, self.head = nn.ReLU6(), nn.ReLU(), nn.Linear(4, 5)
        self.read_twice, self.of_the_image, self.after_sigmoid = nn.ReLU6(), nn.ReLU(), nn.ReLU()
        self.uncalled = nn.ReLU6()
        self.several, self.given = nn.Hardtanh(-0.5, 0.5), nn.ReLU6(inplace=True)

    def forward(self, x):
        y = self.after_norm(self.norm(self.conv(self.of_the_image(x) + x)))
        z = self.other(y)
        self.given(z)
        y = self.read_twice(z) + z
        y = self.after_sum(y + 1) + self.after_sigmoid(z.sigmoid())
        return self.several(self.head(self.several(y + 2).mean((2, 3))))


def test_only_rectifiers_whose_input_nobody_needs_write_over_it(x):
    torch.manual_seed(0)
    model = ready(Rectified())
    names = ["after_norm", "after_sum", "several", "given"]
    assert rectifiers_to_write_in_place(model, Seen.passing(model, x)) == names
    before = prepare(model, [], x, wanted=()).model
    assert difference(with_rectifiers_in_place(model, names), before, [], x) < 1e-15


def test_a_compiler_sees_rectifiers_that_it_knows(x):
    torch.manual_seed(0)
    model = ready(Rectified())
    prepared = prepare(model, [], x).model
    assert any(isinstance(module, InPlaceHardtanh) for module in prepared.modules())
    fast = compiled(prepared, x, backend="aot_eager")  # compares outputs and gradients
    torch.testing.assert_close(fast(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_read_once", [True, False])
def test_a_rectifier_in_place_takes_no_copy_and_has_torchs_slope(is_read_once):
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, torch.nan])
    leaf, other = (x.clone().requires_grad_() for _ in range(2))
    written = leaf * 1
    ours, theirs = InPlaceHardtanh(-1, 1, is_read_once=is_read_once)(written), functional.hardtanh(other)
    assert ours.data_ptr() == written.data_ptr()
    assert torch.equal(ours.nan_to_num(9), theirs.nan_to_num(9))
    assert torch.equal(*(torch.autograd.grad(y.sum(), at)[0] for y, at in ((ours, leaf), (theirs, other))))


@pytest.mark.parametrize(
    "text",
    ["saliency", "deep_lift", "guided_backprop", "lrp", "grad_cam(at='other')", "conductance(at='norm', n_steps=2)"],
)
def test_what_is_asked_of_the_prepared_model_is_answered_alike(x, text):
    torch.manual_seed(0)
    model = ready(nn.Sequential(Padded((0, 1, 0, 1), depthwise(3, 2)), nn.ReLU6(), nn.Linear(6, 5)))
    rectified = ready(Rectified())
    images = Images(x, tuple("abcd"), torch.zeros(4, dtype=torch.int64))
    for given in (rectified,) if "at=" in text else (model, rectified):
        (question,) = [resolve(parse(text), given, x[:1])]
        prepared = prepare(given, [question], x)
        assert {"folded padding", "rectifiers in place"} & set(prepared.done)
        ours, theirs = (next(iter(explain(m, images, [question]).answers)) for m in (prepared.model, given))
        torch.testing.assert_close(ours.attribution, theirs.attribution, rtol=0, atol=1e-12)
