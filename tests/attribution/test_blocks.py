"""Elementwise steps in pieces give what they give at once, however the arrays lie in memory."""

import pytest
import torch

from attribution import blocks
from attribution.blocks import blockwise, moved, write_into
from attribution.rules import difference


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write(output, x, other, number):
    torch.mul(x - other, number, out=output)


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "batch not first in memory": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 128)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("theirs", LAYOUTS)
@pytest.mark.parametrize("ours", LAYOUTS)
def test_pieces_are_the_whole(small_pieces, ours, theirs, rows):
    x, other = LAYOUTS[ours](randn(4, 6, 9, 11)), LAYOUTS[theirs](randn(rows, 6, 9, 11, seed=1))
    number = torch.tensor([[[[3.0]]]])
    for second in (other, other[:1].expand(4, -1, -1, -1)):
        assert torch.equal(blockwise(write, x, second, number), (x - second) * number)
    written = x.clone(memory_format=torch.preserve_format)
    write_into(written, write, written, other, number)
    assert torch.equal(written, (x - other) * number)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_is_kept_of_what_is_overwritten(small_pieces, layout):
    x = LAYOUTS[layout](randn(4, 6, 9, 11))
    before = x.clone()
    copy = moved(x, torch.relu_)
    assert torch.equal(copy, before)
    assert torch.equal(x, before.relu())


@pytest.mark.parametrize("f", [torch.relu, torch.nn.functional.relu6, torch.nn.functional.hardtanh])
def test_the_step_s_quotient_is_the_derivative_where_nothing_changes(f):
    ends = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1e-3, 1.0, 3.0, 6.0, 7.0])
    near_zero = torch.tensor([-1e-30, 1e-30])  # denormal numbers count as zero
    up, down = (torch.nextafter(ends[ends != 0], torch.tensor(to)) for to in (9.0, -9.0))
    neighbours = torch.cat([ends, up, down, near_zero])
    x, r = (t.reshape(1, -1) for t in torch.cartesian_prod(neighbours, neighbours).unbind(1))
    (slope,) = difference.rescale_step(f, torch.ones_like(x), [x], [r])
    same = x == r
    assert torch.equal(slope[same], difference.derivative(f, x)[same])
    assert bool(((slope >= 0) & (slope <= 4 / 3)).all())  # between neighbours the step is a quarter of their distance
    # float32: the quotient is rounded once, and a third of a last digit of 6 is 1.6e-7
    torch.testing.assert_close(slope * (x - r), f(x) - f(r), rtol=1e-6, atol=2e-7)
