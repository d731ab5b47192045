"""Where the tests of this folder compute: a GPU, or for a rehearsal the CPU."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ON_GPU = pytest.mark.skipif(
    DEVICE.type == "cpu" and "KDWATTS_REHEARSE_GPU" not in os.environ,
    reason="needs a CUDA device; KDWATTS_REHEARSE_GPU=1 computes on the CPU",
)
