"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32; float64 stays float64, so that a reference can be computed."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
