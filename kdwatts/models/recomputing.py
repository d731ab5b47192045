"""Activations computed again in the backward pass instead of being kept: memory for time."""

from __future__ import annotations

from torch import nn


def recompute_blocks(model: nn.Module) -> None:
    """Have a model of transformers keep its blocks' inputs alone while it trains."""
    # Transformers 5.17 has the older name alone, which 5.23 warns of.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    getattr(model, next(name for name in names if hasattr(model, name)))()
