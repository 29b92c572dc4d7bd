"""Everything that can be asked, for `cli.py methods`: read off the engine's tables, so that there is no second list."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import attribution.methods  # noqa: F401  # fills the table
from attribution.method import METHODS
from attribution.methods.noise_tunnel import KINDS, NoiseTunnel
from attribution.metrics import METRICS


def rows() -> list[dict[str, Any]]:
    """Methods, then what stands around them (`noise=`), then what is asked of their maps (`--set metrics=[...]`)."""
    methods = [
        {
            "method": name,
            "kind": "method",
            "short": list(method.short),
            "parameters": method.parameters(),
            "places": sorted(method.places),
            "baseline": method.default_baseline,
            "axioms": sorted(method.axioms),
            "captum": list(method.captum),
            "help": method.help(),
            "paper": method.paper,
        }
        for name, method in sorted(METHODS.items())
    ]
    around = {name: value for name, value in NoiseTunnel.parameters().items() if name in ("samples", "stdev")}
    tunnels = [
        {
            **_empty("noise", kind),
            "parameters": around,
            "captum": ["NoiseTunnel"],
            "help": NoiseTunnel.help(),
            "paper": paper,
        }
        for kind, paper in KINDS.items()
    ]
    metrics = [
        {
            **_empty("metric", name),
            "parameters": {field.name: field.default for field in fields(metric)},
            "captum": [name],
            "help": (metric.__doc__ or "").strip().splitlines()[0],
            "paper": metric.paper,
        }
        for name, metric in sorted(METRICS.items())
    ]
    return methods + tunnels + metrics


def as_text(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for people: lists and parameters as one text."""
    return [
        {
            **row,
            "short": ", ".join(row["short"]),
            "places": ", ".join(row["places"]),
            "parameters": ", ".join(f"{key}={value!r}" for key, value in row["parameters"].items()),
        }
        for row in told
    ]


def _empty(kind: str, name: str) -> dict[str, Any]:
    return {"method": name, "kind": kind, "short": [], "places": [], "baseline": None, "axioms": []}
