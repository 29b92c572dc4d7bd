"""Numbers, layouts and clamps that are hard on the rules' elementwise steps, for the tests of those of cores and of GPUs."""

from math import inf, nan

import torch

from attribution.rules import difference

LAYOUTS = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
}
ENDS = {"relu": (0.0, inf), "relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0)}


def numbers(dtype, *shape, seed=0):
    """Many at and next to the ends of clamps and equal to the reference's; some zero, infinite or no number."""
    real = dtype if dtype.itemsize > 2 else torch.float32
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=real) * 3
    special = torch.tensor([-1.0, 0.0, -0.0, 1.0, 6.0, 1e-30, -1e-30, 2.5, inf, -inf, nan], dtype=real)
    which = torch.randint(0, 3 * len(special), shape, generator=torch.Generator().manual_seed(seed + 7))
    chosen = torch.where(which < len(special), special[which.clamp(max=len(special) - 1)], drawn)
    up = torch.nextafter(chosen, torch.full_like(chosen, 9))
    return torch.where(which % 5 == 0, up, chosen).to(dtype)


class Clamp:
    """The operation as a rule gets it."""

    is_of_one_tensor = True

    def __init__(self, ends, gives_inputs):
        self.ends, self.gives_inputs = ends, gives_inputs

    def __call__(self, x):
        return x.clamp(*self.ends)


def rescaled(ends, gradient, x, r, gives_inputs=False):
    (credit,) = difference.rescale_clamp(*ends)(Clamp(ends, gives_inputs), gradient, [x.clone()], [r])
    return credit


def same(ours, theirs):
    return torch.equal(ours.nan_to_num(77, 78, 79), theirs.nan_to_num(77, 78, 79))
