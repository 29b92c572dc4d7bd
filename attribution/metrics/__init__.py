"""How good a map is: one number per image. Importing this package fills METRICS."""

from attribution.metrics.completeness import completeness_delta
from attribution.metrics.infidelity import Infidelity, infidelity
from attribution.metrics.metric import METRICS, Case, Metric, parse_metric
from attribution.metrics.sensitivity import SensitivityMax, sensitivity_max

__all__ = [
    "METRICS",
    "Case",
    "Infidelity",
    "Metric",
    "SensitivityMax",
    "completeness_delta",
    "infidelity",
    "parse_metric",
    "sensitivity_max",
]
