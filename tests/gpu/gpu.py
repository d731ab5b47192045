"""Where the tests of this folder compute, a GPU or for a rehearsal the CPU, and how close."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ON_GPU = pytest.mark.skipif(
    DEVICE.type == "cpu" and "KDWATTS_REHEARSE_GPU" not in os.environ,
    reason="needs a CUDA device; KDWATTS_REHEARSE_GPU=1 computes on the CPU",
)


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Length of the difference of all tensors over that of the expected ones, on the CPU."""
    pairs = list(zip(found, expected, strict=True))
    apart = sum(((one.cpu().double() - other) ** 2).sum() for one, other in pairs)
    return float((apart / sum((other**2).sum() for _, other in pairs)) ** 0.5)
