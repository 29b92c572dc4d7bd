"""Convolutions by products of tiles are those of float64, whatever their shape and wherever their images lie, in any number of threads.

How their nodes work together on the way back is in `test_gpu_convolutions.py`, for a GPU's kernels and for these.
"""

from itertools import product
from math import inf

import pytest
import torch
from interpreting import needs_tiles
from torch.nn import functional

from attribution import convolutions, cores
from attribution.arithmetic import arithmetic
from attribution.convolutions import conv2d
from attribution.geometry import Geometry
from attribution.ways import Axis, Tap, back_along, forward_along, way_forward

ONE, NONE = (1, 1), (0, 0)

# in channels, out channels, rows, columns, kernel, geometry
SHAPES = [
    (64, 64, 5, 7, (1, 1), Geometry(ONE, NONE, ONE, 1)),
    (72, 130, 4, 3, (1, 1), Geometry(ONE, NONE, ONE, 1)),
    (9, 16, 7, 8, (1, 1), Geometry((2, 2), NONE, ONE, 1)),
    (40, 17, 9, 40, (3, 3), Geometry(ONE, ONE, ONE, 1)),
    (33, 50, 14, 15, (3, 3), Geometry((2, 2), ONE, ONE, 1)),
    (64, 12, 29, 29, (4, 4), Geometry(ONE, (3, 3), ONE, 1)),
    (10, 6, 8, 7, (3, 2), Geometry((3, 1), (1, 0), ONE, 1)),
    (16, 24, 9, 9, (3, 3), Geometry(ONE, (2, 2), (2, 2), 1)),
    (16, 24, 9, 10, (3, 3), Geometry((2, 2), (1, 2), (2, 1), 1)),  # steps over holes
    (16, 40, 9, 9, (3, 3), Geometry((2, 2), (2, 2), (3, 3), 1)),
    (32, 32, 9, 11, (2, 2), Geometry((4, 3), NONE, ONE, 1)),  # pixels that nobody reads
    (16, 16, 3, 3, (3, 3), Geometry((2, 2), (2, 2), ONE, 1)),
    (16, 16, 3, 2, (1, 1), Geometry(ONE, (2, 1), ONE, 1)),  # more zeros than a kernel reaches
    (12, 16, 15, 14, (7, 7), Geometry((2, 2), (3, 3), ONE, 1)),
    (24, 24, 9, 7, (3, 3), Geometry(ONE, ONE, ONE, 24)),  # depthwise from here on
    (72, 72, 9, 30, (5, 5), Geometry((2, 2), (2, 2), ONE, 72)),
    (40, 40, 8, 9, (4, 4), Geometry((2, 3), (2, 2), ONE, 40)),
    (17, 17, 9, 9, (3, 3), Geometry(ONE, (2, 2), (2, 2), 17)),
    (16, 16, 9, 9, (2, 2), Geometry((3, 3), NONE, ONE, 16)),
]
FAITHFUL = {3: 1e-5, 1: 4e-3}
"""Of a product of so many terms, relative to the norm: about 2^-18 and 2^-9 of each number."""

IMAGES = [1, 3]


@pytest.fixture(autouse=True)
def _as_asked(monkeypatch):
    monkeypatch.setattr(arithmetic, "bf16x3", True)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(shape, images):
    """Input and weight, of unit variance in and out."""
    c, k, rows, columns, kernel, geometry = shape
    inner = c // geometry.groups
    return drawn(images, c, rows, columns), drawn(k, inner, *kernel, seed=1) / (inner * kernel[0] * kernel[1]) ** 0.5


def distance(ours, truth):
    return float((ours.double() - truth).norm() / truth.norm())


def convolved(x, weight, geometry):
    return functional.conv2d(x.double(), weight.double(), None, *geometry)


def slopes(x, weight, geometry, gradient):
    leaf = x.double().requires_grad_()
    return torch.autograd.grad(convolved(leaf, weight, geometry), leaf, gradient.double())[0]


@needs_tiles
@pytest.mark.parametrize("terms", FAITHFUL)
@pytest.mark.parametrize(("shape", "images"), list(product(SHAPES, IMAGES)), ids=str)
def test_forward_with_what_comes_behind(shape, images, terms):
    (x, weight), geometry = layer(shape, images), shape[-1]
    truth = convolved(x, weight, geometry)
    bias, added = drawn(len(weight), seed=2), drawn(*truth.shape, seed=3)
    assert distance(cores.convolve(x, weight, None, geometry, None, terms), truth) < FAITHFUL[terms]
    truth = truth + bias.double()[:, None, None]
    for ends, plus in ((None, None), (None, added), ((0, inf), None), ((-0.5, 1), added)):
        y = cores.convolve(x, weight, bias, geometry, ends, terms, plus)
        total = truth if plus is None else truth + plus
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert distance(y, total if ends is None else total.clamp(*ends)) < FAITHFUL[terms]


@needs_tiles
@pytest.mark.parametrize("terms", FAITHFUL)
@pytest.mark.parametrize(("shape", "images"), list(product(SHAPES, IMAGES)), ids=str)
def test_back_with_a_sum_and_a_gate(shape, images, terms):
    (x, weight), geometry = layer(shape, images), shape[-1]
    gradient = drawn(*convolved(x, weight, geometry).shape, seed=4)
    truth, added = slopes(x, weight, geometry, gradient), drawn(*x.shape, seed=5)
    told = cores.pulled_back(gradient, weight, geometry, x.shape, terms)
    assert distance(told, truth) < FAITHFUL[terms]
    for ends in ((0, inf), (-0.5, 1.0)):
        told = cores.pulled_back(gradient, weight, geometry, x.shape, terms, x, ends, added)
        assert told.is_contiguous(memory_format=torch.channels_last)
        is_open = (x > ends[0]) & (x < ends[1])
        assert not told[~is_open].any()
        assert distance(told, (truth + added) * is_open) < FAITHFUL[terms]


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_and_batches_change_no_bit(shape):
    (x, weight), geometry, before = layer(shape, 3), shape[-1], torch.get_num_threads()
    told = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = cores.convolve(x, weight, None, geometry, None, 3)
            told.append((y, cores.pulled_back(y, weight, geometry, x.shape, 1)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for others in told[1:] for pair in zip(told[0], others, strict=True))
    alone = cores.convolve(x[1:2], weight, None, geometry, None, 3)
    assert torch.equal(alone, told[0][0][1:2])
    assert torch.equal(cores.pulled_back(alone, weight, geometry, x[1:2].shape, 1), told[0][1][1:2])


@needs_tiles
def test_steps_may_be_lists():
    (x, weight), geometry = layer(SHAPES[4], 1), SHAPES[4][-1]
    y = cores.convolve(x, weight, None, geometry, None, 3)
    listed = Geometry(*map(list, geometry[:3]), 1)
    assert torch.equal(cores.convolve(x, weight, None, listed, None, 3), y)
    told = cores.pulled_back(y, weight, listed, x.shape, 3)
    assert torch.equal(told, cores.pulled_back(y, weight, geometry, x.shape, 3))


@needs_tiles
def test_depthwise_sums_are_float32s():
    for shape in SHAPES[-5:]:
        (x, weight), geometry = layer(shape, 2), shape[-1]
        y = cores.convolve(x, weight, None, geometry, None, 1)
        assert distance(y, convolved(x, weight, geometry)) < 2e-7
        told = cores.pulled_back(y, weight, geometry, x.shape, 1)
        assert distance(told, slopes(x, weight, geometry, y)) < 2e-7


@needs_tiles
def test_bands_of_large_images_meet():
    """More positions than a thread takes at a time, so that taps reach from one band into the next."""
    x, weight, geometry = drawn(2, 128, 57, 41), drawn(48, 128, 3, 3, seed=1) / 34, Geometry(ONE, ONE, ONE, 1)
    way = way_forward(x.shape, (2, 48, 57, 41), (3, 3), geometry, 3)
    assert way.length < way.plane_rows * way.plane_columns
    y = cores.convolve(x, weight, None, geometry, None, 3)
    assert distance(y, convolved(x, weight, geometry)) < FAITHFUL[3]
    told = cores.pulled_back(y, weight, geometry, x.shape, 3)
    assert distance(told, slopes(x, weight, geometry, y)) < FAITHFUL[3]


@needs_tiles
def test_images_may_lie_in_any_order_and_be_none():
    (x, weight), geometry = layer(SHAPES[4], 3), SHAPES[4][-1]
    y = conv2d(x, weight, None, *geometry)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([x, x], 1)[:, : x.shape[1]],
        x.repeat_interleave(2, 0)[::2],
    ):
        assert torch.equal(conv2d(other, weight, None, *geometry), y)
    assert conv2d(x[:0], weight, None, *geometry).shape == (0, *y.shape[1:])
    assert torch.equal(conv2d(x[:1].expand(3, -1, -1, -1), weight, None, *geometry)[2], y[0])


@needs_tiles
def test_what_is_no_number_stays_none_and_nowhere_else():
    (x, weight), geometry = layer(SHAPES[3], 2), SHAPES[3][-1]
    clean = cores.convolve(x, weight, None, geometry, (0, 6), 3)
    x[0, 5, 0, 39] = torch.nan  # at an edge: the zeros behind it are not its neighbours
    y = cores.convolve(x, weight, None, geometry, (0, 6), 3)
    met = torch.zeros(y.shape[2:], dtype=torch.bool)
    met[:2, -2:] = True
    assert y[0, :, met].isnan().all()
    assert torch.equal(y[0, :, ~met], clean[0, :, ~met])
    assert torch.equal(y[1], clean[1])
    gate = torch.full_like(x, torch.nan)  # no number is at neither end
    told = cores.pulled_back(clean, weight, geometry, x.shape, 3, gate, (0, inf))
    assert torch.equal(told, cores.pulled_back(clean, weight, geometry, x.shape, 3))


@needs_tiles
def test_weights_that_are_written_to_are_laid_out_anew():
    (x, weight), geometry = layer(SHAPES[0], 1), SHAPES[0][-1]
    y = cores.convolve(x, weight, None, geometry, None, 3)
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(cores.convolve(x, weight, None, geometry, None, 3), 2 * y)
    other = Geometry(ONE, (2, 2), ONE, 1)  # the same weight, gone over otherwise
    assert distance(cores.convolve(x, weight, None, other, None, 3), convolved(x, weight, other)) < FAITHFUL[3]


def test_what_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(cores, "library", object)
    x, weight, plain = drawn(1, 16, 4, 4), drawn(8, 16, 1, 1), Geometry(ONE, NONE, ONE, 1)
    assert convolutions._kernels(x, weight, plain) is cores
    assert not cores.can(x.double(), weight.double(), plain)
    assert not cores.can(x.bfloat16(), weight.bfloat16(), plain)
    assert not cores.can(x[:0], weight, plain)
    assert not cores.can(x, weight[:, :8], plain._replace(groups=2))
    assert not cores.can(x[:, :8], weight[:, :8], plain)  # few channels
    assert cores.can(x, drawn(16, 1, 8, 8), plain._replace(groups=16))
    assert not cores.can(x, drawn(16, 1, 9, 8), plain._replace(groups=16))
    monkeypatch.setattr(arithmetic, "bf16x3", False)
    assert convolutions._kernels(x, weight, plain) is None
    monkeypatch.setattr(arithmetic, "bf16x3", True)
    monkeypatch.setattr(cores, "library", lambda: None)
    assert convolutions._kernels(x, weight, plain) is None


@pytest.mark.parametrize(("size", "step", "padding", "hole"), list(product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2))))
def test_an_axis_meets_what_a_convolution_meets(size, step, padding, hole):
    """Place by place, by counting: on any processor."""
    extent = 11
    count = (extent + 2 * padding - hole * (size - 1) - 1) // step + 1
    met = {(i, i * step + place * hole - padding, place) for i in range(count) for place in range(size)}
    met = {each for each in met if 0 <= each[1] < extent}

    def pairs(axis, read_extent, written_extent):
        read = [
            (written, (first + tap.offset - axis.lead) * axis.step + tap.phase, tap.place)
            for phase, taps in enumerate(axis.taps)
            for first in range(-(-written_extent // axis.to_step))
            if (written := first * axis.to_step + phase) < written_extent
            for tap in taps
            if first + tap.offset >= 0
        ]
        return {each for each in read if 0 <= each[1] < read_extent}

    forward, back = forward_along(size, step, padding, hole), back_along(size, step, padding, hole)
    assert pairs(forward, extent, count) == met
    assert pairs(back, count, extent) == {(pixel, i, place) for i, pixel, place in met}
    for axis in (forward, back):
        assert min((tap.offset for taps in axis.taps for tap in taps), default=0) >= 0


def test_zeros_behind_a_row_are_those_before_the_next():
    """A row of 7 by a kernel of 3: 8 positions, where each row for itself takes 9."""
    assert forward_along(3, 1, 1, 1) == Axis(((Tap(0, 0, 0), Tap(1, 0, 1), Tap(2, 0, 2)),), lead=1, step=1)
    assert forward_along(3, 1, 1, 1).plane(7, 7) == 8
    assert forward_along(1, 1, 0, 1).plane(7, 7) == 7
