"""In what arithmetic this process convolves by kernels of ours, as torch's own `allow_tf32` is for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

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
def _meanwhile(**settings: Any) -> Iterator[None]:
    """These settings; those of before come back whatever has been set since."""
    before = {name: getattr(arithmetic, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(arithmetic, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(arithmetic, name, value)


def by_torch_alone() -> AbstractContextManager[None]:
    """Without kernels of ours meanwhile, for comparison with them."""
    return _meanwhile(by_kernels=False)


def as_before() -> AbstractContextManager[None]:
    """What is set meanwhile, as for a trial, does not outlast it."""
    return _meanwhile(bf16x3=arithmetic.bf16x3)


def bfloat16_gradients() -> AbstractContextManager[None]:
    """Under bf16x3, gradients by single products meanwhile."""
    return _meanwhile(gradient_terms=1)
