"""Tensors sent from the CPU to a GPU, which the host does not wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`.

    A GPU reads page-locked memory by itself. From other memory, the host would wait for the copy,
    and so for all work that the GPU has been given before. So such a tensor is page-locked first.
    """
    to_gpu = device.type == "cuda"
    if to_gpu and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=to_gpu)
