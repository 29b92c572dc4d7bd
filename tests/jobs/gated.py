"""The tiny model, made to wait: after a few passes each process stands still until a file appears.

So a run can be looked at and cancelled halfway on any machine, however fast, without a sleep that is hoped to suffice.
"""

import os
import time
from pathlib import Path

from torch import Tensor, nn

from jobs.preprocessing import Preprocessing
from tests.jobs.tiny import PREPROCESSING, Tiny, model

MODEL = "tests.jobs.gated:gated"
GATE = "TEST_GATE"  # names the file
FREE_PASSES = 8


class Gated(Tiny):
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        while self.passes > FREE_PASSES and not Path(os.environ[GATE]).exists():
            time.sleep(0.05)
        return super().forward(x)


def gated() -> tuple[nn.Module, Preprocessing]:
    waiting = Gated()
    waiting.load_state_dict(model()[0].state_dict())
    return waiting, PREPROCESSING
