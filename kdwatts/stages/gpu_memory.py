"""The GPU's memory, before another process needs it."""

from __future__ import annotations

import gc

import torch


def release(device: torch.device) -> None:
    """Give back the GPU's memory that earlier stages' tensors had, for a process that is started.

    Models that nobody names any more may still hold each other: they are collected first. Torch
    keeps the memory of what is gone until it is asked.
    """
    gc.collect()
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
