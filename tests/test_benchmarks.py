"""The table of benchmarks/engine.py speaks of every method there is, in expressions that the engine understands."""

import importlib.util
import sys
from pathlib import Path

import pytest

from attribution.method import METHODS
from attribution.metrics import parse_metric
from attribution.question import parse

CASES = Path(__file__).parent.parent / "benchmarks" / "engine_cases.py"


@pytest.fixture(scope="module")
def cases():
    spec = importlib.util.spec_from_file_location("engine_cases", CASES)
    module = sys.modules["engine_cases"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.CASES
    del sys.modules["engine_cases"]


def test_every_method_is_measured(cases):
    assert {parse(case.expression).name for case in cases} == set(METHODS)


def test_every_case_needs_passes_and_its_metrics_exist(cases):
    for case in cases:
        assert case.forward + case.forward_backward + case.at_layer > 0
        for text in case.metrics:
            parse_metric(text)  # an error where there is no such metric
