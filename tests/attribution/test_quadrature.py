"""Quadrature rules integrate what they promise to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution.quadrature import RULES, quadrature

EXACT_DEGREE = {
    "gausslegendre": lambda n: 2 * n - 1,
    "riemann_middle": lambda _: 1,
    "riemann_left": lambda _: 0,
    "riemann_right": lambda _: 0,
}


@given(st.sampled_from(sorted(EXACT_DEGREE)), st.integers(1, 30))
def test_polynomials_up_to_the_rule_s_degree_are_integrated_exactly(method, n):
    degree = EXACT_DEGREE[method](n)
    total = sum(weight * alpha**degree for alpha, weight in quadrature(method, n))
    assert total == pytest.approx(1 / (degree + 1), abs=1e-13)


@given(st.sampled_from(sorted(RULES)), st.integers(2, 200))
def test_points_rise_within_the_path_and_weights_are_positive(method, n):
    alphas = [alpha for alpha, _ in quadrature(method, n)]
    assert alphas == sorted(alphas)
    assert alphas[0] >= 0
    assert alphas[-1] <= 1
    assert all(weight > 0 for _, weight in quadrature(method, n))


def test_the_trapezoid_keeps_captum_s_weights():
    assert sum(weight for _, weight in quadrature("riemann_trapezoid", 10)) == pytest.approx(1 - 1 / 10)


@pytest.mark.parametrize(("method", "n"), [("simpson", 5), ("gausslegendre", 0), ("riemann_trapezoid", 1)])
def test_mistakes(method, n):
    with pytest.raises(ValueError, match=f"{method}|n_steps={n}"):
        quadrature(method, n)
