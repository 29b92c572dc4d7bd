"""In what arithmetic this process convolves by kernels of ours, as torch's own `allow_tf32` is for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BF16X3 = 3
"""Products of bfloat16 that a product of float32 numbers is made of."""


@dataclass(slots=True)
class Arithmetic:
    """What the kernels of `gpu/convolutions.py` and `cores.py` do with float32."""

    bf16x3: bool = False
    """Multiplied as three products of bfloat16; else, as far as it is multiplied with units for products, by torch's own kernels."""
    gradient_terms: int = BF16X3
    """Of how many products each is made on the way back, 1 or 3: given which rectifiers are open that way is linear, and one harms little."""
    by_kernels: bool = True
    """Whether kernels of ours are used at all."""


arithmetic = Arithmetic()


@contextmanager
def by_torch_alone() -> Iterator[None]:
    """Without kernels of ours meanwhile, for comparison with them."""
    before, arithmetic.by_kernels = arithmetic.by_kernels, False
    try:
        yield
    finally:
        arithmetic.by_kernels = before


@contextmanager
def as_before() -> Iterator[None]:
    """What is set meanwhile, as for a trial, does not outlast it."""
    before = arithmetic.bf16x3
    try:
        yield
    finally:
        arithmetic.bf16x3 = before


@contextmanager
def bfloat16_gradients() -> Iterator[None]:
    """Under bf16x3, gradients by single products meanwhile."""
    before, arithmetic.gradient_terms = arithmetic.gradient_terms, 1
    try:
        yield
    finally:
        arithmetic.gradient_terms = before
