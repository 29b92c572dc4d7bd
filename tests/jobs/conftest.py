"""One Ray for all tests that need one: two cores, two pretended GPUs, no dashboard."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cluster():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", "0" * 48)
        )  # so that Ray writes none into the home folder
        patch.setenv("PYTHONPATH", str(ROOT))  # workers import the models of these tests
        patch.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=2,
            object_store_memory=200_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )
        yield
        ray.shutdown()
