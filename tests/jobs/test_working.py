"""Promise: what a run computes on is what is there or what was asked for, and never a guess."""

import pytest

from jobs import working
from jobs.spec import RunSpec, SpecError

SPEC = RunSpec(dataset="imagenet-val", methods=("saliency",), model="resnet50")


@pytest.mark.parametrize(
    ("there", "asked", "device"),
    [
        ({"GPU": 4.0, "CPU": 8.0}, None, "cuda"),
        ({"CPU": 8.0}, None, "cpu"),
        ({"GPU": 4.0, "CPU": 8.0}, 0.0, "cpu"),
        ({}, 1.0, "cuda"),
        ({"memory": 1e9}, 0.0, "cpu"),
    ],
)
def test_device_of_a_cluster(there, asked, device, monkeypatch):
    monkeypatch.setattr(working.ray, "cluster_resources", lambda: there)
    assert working.device_kind(SPEC.assigned({"gpus_per_worker": asked}), inside=True) == device


def test_a_cluster_that_grows_from_nothing_is_not_taken_for_one_without_gpus(monkeypatch):
    monkeypatch.setattr(working.ray, "cluster_resources", lambda: {"memory": 1e9, "node:__internal_head__": 1.0})
    with pytest.raises(SpecError, match="--workers 8 --set gpus_per_worker=1"):
        working.device_kind(SPEC, inside=True)
