"""Models with seeded random weights that behave like trained ones where it matters for trials: signals neither die nor explode."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_NOISE_IMAGE_COUNT = 8  # BatchNorm's variance over 8 images of 7 x 7 positions is within 5 % of its limit


def build_seeded(build: Callable[[], nn.Module], name: str, crop: tuple[int, int]) -> nn.Module:
    """`build()` with weights that depend on `name` alone, BatchNorm calibrated on noise, and no head left at zero."""
    with _seeded(zlib.crc32(name.encode())), _one_thread():
        model = build().eval()
        _redraw_zero_heads(model)
        _calibrate(model, torch.randn(_NOISE_IMAGE_COUNT, 3, *crop))
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Modules draw their weights from the global generator and know no other; it is put back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads add up in another order: a driver with two would calibrate otherwise than its workers with one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _redraw_zero_heads(model: nn.Module) -> None:
    """The ViT of torchvision starts its head at zero: every image would get the same answer and every map would be zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.trunc_normal_(module.weight, std=0.02)  # the width ViT draws its other layers with


def _calibrate(model: nn.Module, images: torch.Tensor) -> None:
    """BatchNorm's running mean and variance from one pass over noise; fresh ones (0 and 1) let the signal explode."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001  # no public common class
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
