"""Compiled steps give what torch's operations give one by one, to the bit, wherever they run; without them the rules are the same."""

from math import inf

import pytest
import torch
from clamps import ENDS, LAYOUTS, numbers, rescaled, same
from torch.nn import functional

from attribution import native
from attribution.kept import Kept
from attribution.rules import difference, linear, rectified
from attribution.rules.operations import CLAMPS

needs_library = pytest.mark.skipif(native.library() is None, reason="installed without a C compiler")


def without(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)


# 40 columns are one thread's; 60,000 are shared, and no multiple of a vector
SHAPES = [(3, 4, 5, 2), (4, 5, 100, 119)]


@needs_library
@pytest.mark.parametrize("dtype", native.REALS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", ["as many", "one", "one number"])
def test_a_clamps_multiplier(monkeypatch, dtype, shape, layout, rows):
    lay = LAYOUTS[layout]
    x, gradient = lay(numbers(dtype, *shape)), lay(numbers(dtype, *shape, seed=1))
    r = {"as many": shape, "one": (1, *shape[1:]), "one number": (1, 1, 1, 1)}[rows]
    r = numbers(dtype, *r, seed=2) if rows != "one number" else torch.full(r, 0.5, dtype=dtype)
    if rows == "as many":
        x = torch.where(torch.rand(shape) < 0.3, r, x)
    compiled = {
        name: (rescaled(ends, gradient, x, r), rescaled(ends, gradient, x, r, True)) for name, ends in ENDS.items()
    }
    without(monkeypatch)
    for name, ends in ENDS.items():
        plain = rescaled(ends, gradient, x, r)
        assert all(same(credit, plain) for credit in compiled[name])


@needs_library
@pytest.mark.parametrize("dtype", native.REALS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damped_and_guided_signals(dtype, shape, layout):
    z, gradient = LAYOUTS[layout](numbers(dtype, *shape)), LAYOUTS["channels last"](numbers(dtype, *shape, seed=1))
    output = torch.empty_like(z)
    can = layout != "strided" or output.is_contiguous()
    assert native.damp(output, z, gradient, 1e-3) == can
    assert same(output, (z.abs() / (z.abs() + 1e-3)).nan_to_num(1) * gradient)
    for high in (inf, 6.0):
        y = z.nan_to_num(0).clamp(
            0, high
        )  # of NaN torch's vectors and what is left over at their end think differently
        assert native.guide(output, y, gradient, high)
        assert same(output, torch.ops.aten.hardtanh_backward(gradient, y, 0, high).clamp(min=0))


@pytest.mark.parametrize("is_compiled", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize("dtype", native.REALS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 7)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_damped_scale_of_channels(monkeypatch, is_compiled, dtype, shape, layout):
    if not is_compiled:
        without(monkeypatch)
    lay = LAYOUTS[layout] if len(shape) == 4 else LAYOUTS["contiguous"]
    z, gradient = lay(numbers(dtype, *shape)), numbers(dtype, *shape, seed=1)
    scale = numbers(dtype, shape[1], seed=2).nan_to_num(0, 1, -1)
    x = lay(numbers(dtype, *shape, seed=3))
    behind = linear.Damping(eps=1e-3, kept=Kept(x), has_heir=True, readers=1)
    (signal,) = linear.damped_scale(1e-3, scale, None)(None, gradient, [z], [])
    (twice,) = linear.damped_scale(1e-3, scale, behind)(None, gradient, [z], [])
    expected = (z.abs() / (z.abs() + 1e-3)).nan_to_num(1) * gradient * scale.reshape(-1, *[1] * (len(shape) - 2))
    assert same(signal, expected)
    assert same(twice, expected * (x.abs() / (x.abs() + 1e-3)).nan_to_num(1))
    behind.readers = 2  # whoever else reads it needs it damped in its own place
    assert same(linear.damped_scale(1e-3, scale, behind)(None, gradient, [z], [])[0], expected)
    assert native.damp(torch.empty_like(z), z, gradient, 1e-3, scale) == is_compiled


@needs_library
def test_what_lies_in_no_order_or_is_no_real_of_the_processor_is_left_to_torch():
    x = numbers(torch.float32, 4, 5, 6, 7)
    across = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not native.damp(torch.empty_like(across), across, x, 1e-3)
    assert not native.damp(x.half(), x.half(), x.half(), 1e-3)
    assert not native.damp(x.clone(), x, x.double(), 1e-3)


@pytest.mark.parametrize("is_compiled", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize("f", [torch.relu, functional.relu6, functional.hardtanh])
def test_the_quotient_is_the_derivative_where_nothing_changes(monkeypatch, f, is_compiled):
    if not is_compiled:
        without(monkeypatch)
    ends = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1e-3, 1.0, 3.0, 6.0, 7.0, -1e-30, 1e-30])
    up, down = (torch.nextafter(ends[ends.abs() > 1e-20], torch.tensor(to)) for to in (9.0, -9.0))
    neighbours = torch.cat([ends, up, down])
    x, r = (t.reshape(1, -1) for t in torch.cartesian_prod(neighbours, neighbours).unbind(1))
    slope = rescaled(ENDS[f.__name__], torch.ones_like(x), x, r)
    same = x == r
    assert torch.equal(slope[same], difference.derivative(f, x)[same])
    assert bool(((slope >= 0) & (slope <= 1)).all())
    # float32: the quotient is rounded once
    torch.testing.assert_close(slope * (x - r), f(x) - f(r), rtol=2e-7, atol=0)


@needs_library
def test_a_library_of_another_version_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert native.library.__wrapped__() is None


def test_every_clamp_is_one():
    assert set(CLAMPS) == set(ENDS)
    assert linear.native is rectified.native is difference.native is native
