"""Elementwise steps in pieces give what they give at once, however the arrays lie in memory."""

import pytest
import torch

from attribution import blocks
from attribution.blocks import moved, write_into


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
        written = torch.empty_like(x)
        write_into(written, write, x, second, number)
        assert torch.equal(written, (x - second) * number)
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
