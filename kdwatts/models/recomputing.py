"""Activations computed again in the backward pass instead of being kept: memory for time."""

from __future__ import annotations

from torch import nn


def recompute_blocks(model: nn.Module) -> None:
    """Have a model of transformers keep its blocks' inputs alone while it trains."""
    # Before transformers 5.23 the method has the older name, which later warns that it is going.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    getattr(model, next(name for name in names if hasattr(model, name)))()
