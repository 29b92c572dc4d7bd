"""Completeness: whether the attributions of an image add up to what they explain."""

from typing import Any

from torch import Tensor

from attribution.bundle import Features, row_sum
from attribution.method import Method
from attribution.site import Site


def completeness_delta(method: Method, site: Site, x: Features, attribution: Features, **needs: Any) -> Tensor | None:
    """How far the attributions of each image are from adding up to what they explain.  -> (N,)

    None where the method promises nothing. Sundararajan et al. 2017, arXiv:1703.01365, prop. 1.
    """
    difference = method.explained_difference(site, x, **needs)
    return None if difference is None else row_sum(attribution) - difference
