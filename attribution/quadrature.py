"""Where along a path the gradient is taken, and with which weight."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from attribution.errors import AttributionError, nearest

Steps = Sequence[tuple[float, float]]
"""The pairs (alpha, weight): where on a path from 0 to 1, and how much it counts."""

Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]


@cache
def quadrature(method: str, n_steps: int) -> Steps:
    """The pairs (alpha, weight) of an n-point rule on [0, 1].

    Weights sum to 1, except for `riemann_trapezoid`, which spreads n points over n - 1 intervals but weighs them by
    1/n and so sums to 1 - 1/n: that is Captum's definition, kept because published maps were made with it.
    """
    if method not in RULES:
        raise AttributionError(f"quadrature method {method!r} not found; {nearest(method, RULES)}")
    if n_steps < 1 or (method == "riemann_trapezoid" and n_steps < 2):
        raise AttributionError(f"n_steps={n_steps} is too few for {method}")
    alphas, weights = RULES[method](n_steps)
    return tuple(zip(alphas.tolist(), weights.tolist(), strict=True))


def nested(count: int) -> Steps:
    """The pairs (alpha, weight) of a rule on [0, 1] whose first n points are a rule too, with weights over n, for any n.

    t = 1, 1/2, 1/4, 3/4, 1/8, ... (van der Corput 1935) makes the trapezoid rule whenever n is a power of two. alpha = t^3
    crowds the points at the baseline, where a network's score changes most: on photographs 97 % of Integrated Gradients'
    error on evenly spaced points comes from the first eighth of the path.
    """
    points = [(1.0, 1.5)]  # the trapezoid's end counts half; its other end, t = 0, has no weight
    for k in range(1, count):
        t = int(f"{k:b}"[::-1], 2) / 2 ** k.bit_length()  # the digits of k behind the point, reversed
        points.append((t**3, 3 * t**2))
    return points[:count]


def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n)  # on [-1, 1]
    return (1 + nodes) / 2, weights / 2


def _trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.full(n, 1 / n)
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


RULES: dict[str, Rule] = {
    "gausslegendre": _gauss_legendre,
    "riemann_left": lambda n: (np.arange(n) / n, np.full(n, 1 / n)),
    "riemann_right": lambda n: (np.arange(1, n + 1) / n, np.full(n, 1 / n)),
    "riemann_middle": lambda n: ((np.arange(n) + 0.5) / n, np.full(n, 1 / n)),
    "riemann_trapezoid": _trapezoid,
}
