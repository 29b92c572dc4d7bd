"""Small models for tests of loading."""

from torch import nn

SMALL = "shufflenet_v2_x0_5"  # 1.4 million parameters


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
