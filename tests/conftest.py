"""Shared by all tests: small models in float64 and small images, seeded; one Ray for those that need one."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch
from moto_server import s3  # noqa: F401  # a fixture
from torch import Tensor, nn

hypothesis.settings.register_profile("untimed", deadline=None)  # timings never decide a test
hypothesis.settings.load_profile("untimed")


class Convolutional(nn.Module):
    """Convolution, in-place ReLU, residual sum, pooling, linear: what most classifiers are made of, small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.tail = nn.Conv2d(6, 8, 3, padding=1)
        self.relu3 = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.norm(self.stem(x))))
        x = x + self.relu2(self.block(x))
        return self.head(self.relu3(self.tail(x)).mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Convolutional().double().eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model.requires_grad_(requires_grad=False)


@pytest.fixture
def x() -> Tensor:
    """Four images (4, 3, 12, 10)."""
    return torch.randn(4, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def baseline() -> Tensor:
    """A reference for each image of `x`."""
    return 0.3 * torch.randn(4, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def target() -> Tensor:
    return torch.tensor([0, 3, 1, 4])


@pytest.fixture(scope="session")
def cluster():
    """Two cores, two pretended GPUs, no dashboard."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        # So that Ray writes no token into the home folder, and its workers import the models of these tests.
        patch.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", "0" * 48))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
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
