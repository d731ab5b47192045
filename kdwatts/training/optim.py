"""AdamW, and a learning rate that depends on the step alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from kdwatts.models.sharding import is_sharded


def make_optimizer(
    modules: list[nn.Module], *, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW over all parameters of `modules`. Norms and biases have no weight decay."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = []
    # A fused step takes sharded and whole parameters apart.
    for sharded in (True, False):
        parameters = [p for p in trained if is_sharded(p) == sharded]
        groups += [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=betas, fused=True
    )


def learning_rate_at(
    step: float, *, num_steps: int, peak: float, warmup_ratio: float, min_ratio: float
) -> float:
    """The learning rate at a step: linear warm-up, then half a cosine down to its least value.

    `min_ratio` is this least value over the peak. Steps count from 0. A step need not be whole: a
    run that joules end before its last step is somewhere in between.
    """
    # Rounded first: 100 * 0.07 is 7.000000000000001 and would be eight steps.
    warmup_steps = math.ceil(round(num_steps * warmup_ratio, 6))
    if step < warmup_steps:
        return peak * min(1.0, (step + 1) / warmup_steps)
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all groups of the optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = value
