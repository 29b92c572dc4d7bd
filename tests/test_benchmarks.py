"""The table of benchmarks/engine.py speaks of every method there is, in expressions that the engine understands; stages.py
names what a job waits for."""

import importlib.util
import sys
from pathlib import Path

import pytest

from attribution.method import METHODS
from attribution.metrics import parse_metric
from attribution.question import parse

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CASES = BENCHMARKS / "engine_cases.py"


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


def test_a_jobs_bottlenecks_are_named_in_the_order_of_their_loads(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("stages", BENCHMARKS / "stages.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stages", module)
    spec.loader.exec_module(module)
    seconds = {
        "decode": 60.0,
        "to device": 1,
        "normalise": 0.5,
        "compute": 4,
        "statistics": 1,
        "rounding": 0.5,
        "write": 5,
    }
    stages = module.Stages(wall=seconds, cpu=seconds)
    module.show(stages, images=1000, wall=0.008, lanes={"decode": 12, "write": 1})
    told = capsys.readouterr().out
    assert "bottlenecks in turn device 6.000 ms, decode 5.000 ms, write 5.000 ms; overlap reached 0.75" in told
    assert "bare engine: 4.000 ms an image, 250 images/s" in told
    assert "125 images/s; of the bare engine 0.50" in told
