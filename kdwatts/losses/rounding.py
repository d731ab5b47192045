"""The precision in which losses are computed, and which differences count as rounding."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_LOGIT = -1e30
"""Stands for a logit of minus infinity. Its probability is 0, and 0 times it is 0 and not NaN."""

TIED_EPSILONS = 64
"""Probabilities within this many roundings of each other are equal.

They are exponentials of logits. A logit may be in the tens, and its own rounding some epsilons.
"""


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32. float64 stays float64, so that a reference can be computed."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def floored(logits: Tensor) -> Tensor:
    """Logits with minus infinity replaced by `LEAST_LOGIT`, which has the probability 0 too.

    Code that forms logits by an output head applies this to the bias alone: nothing else of a head
    can be minus infinity.
    """
    return logits.clamp(min=LEAST_LOGIT)


def tied(distance: Tensor, probability: Tensor) -> Tensor:
    """True where two probabilities differ by no more than their rounding."""
    return distance <= probability * (TIED_EPSILONS * torch.finfo(probability.dtype).eps)
