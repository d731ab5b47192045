"""Small programs for the tests of the pretended device itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.pretend_cuda.ledger import counted


def learn() -> list[float]:
    """The gradient's sum of a small network on the device, and on the CPU."""
    sums = []
    for device in ("cuda", "cpu"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            out = net(torch.randn(3, 4).to(device))
        assert (out.device.type, out.dtype) == (device, torch.bfloat16)
        out.float().square().mean().backward()
        sums.append(sum(p.grad.abs().sum().item() for p in net.parameters() if p.grad is not None))
    return sums


def tie() -> list[bool]:
    """Whether a shared weight is one parameter after the move, and whether it lies there."""
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    nn.Sequential(one, other).to("cuda")
    return [one.weight is other.weight, one.weight.is_cuda]


def mix() -> None:
    torch.add(torch.ones(3, device="cuda"), torch.ones(3))


def scale() -> list[float]:
    """A number of the CPU times the device's tensor, which CUDA takes without waiting."""
    with counted():
        twice = torch.ones(3, device="cuda") * torch.tensor(2.0)
    return twice.tolist()


def wait() -> None:
    """Each line waits once, or not at all where `none` stands."""
    warm = torch.arange(4, device="cuda")
    warm.sum().item()  # none: outside of what is counted.
    with counted():
        warm.add_(1)  # none
        warm.max().item()
        warm[warm > 1]
        warm.nonzero()
        warm.cpu()
        warm.tolist()
        torch.tensor([1, 2], device="cuda")
        torch.ones(3).to("cuda", non_blocking=True)
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)  # none
        torch.ones(3, pin_memory=True).to("cuda", non_blocking=True)  # none
        torch.zeros(3, device="cuda")  # none
        warm[torch.tensor([0, 1])]
        torch.repeat_interleave(warm, warm)
        torch.repeat_interleave(warm, warm, output_size=10)  # none
        torch.cuda.synchronize()


def doubles() -> None:
    with counted():
        torch.ones(3, 2, device="cuda").double().sum(-1)


def attend() -> None:
    query = torch.ones(1, 4, 3, 8, device="cuda")
    key = torch.ones(1, 2, 3, 8, device="cuda")
    with counted(), torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
