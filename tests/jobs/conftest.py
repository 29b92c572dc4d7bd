"""Shared by the tests of jobs: a small model, and the lack of a network."""

import importlib.util

import pytest


@pytest.fixture(scope="session")
def small():
    """A loaded model; nobody changes it."""
    from small_models import SMALL

    from jobs.models import load

    return load(f"{SMALL}:random")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Weights come from the folder of the test or not at all."""

    def refuse(*_arguments, **_options):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("jobs.zoo.timm_models.getproxies", dict)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    if importlib.util.find_spec("huggingface_hub"):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
