"""The matrix products of the head, and memory that they are written to."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_failed: set[tuple[torch.device, torch.dtype]] = set()
"""Where a product could not be added to float32 directly, though a small one could."""


class Buffers:
    """Memory for the logits of one chunk, kept between calls.

    Fresh memory costs a page fault for every 4 KiB. On a CPU that is a quarter of the time of the
    product that fills it.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """Uninitialised memory [R, C] for `rows` and `columns`, with dtype and device of `like`."""
        key = (name, like.dtype, like.device)
        held = self._held.get(key)
        if held is None or held.numel() < rows * columns:
            # Given back first: both at once would be more than the memory plan counts.
            held = self._held.pop(key, None)
            del held
            held = self._held[key] = like.new_empty(rows * columns)
        return held[: rows * columns].view(rows, columns)


def product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write left @ right to `out`, in its dtype."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def add_product(
    left: Tensor, right: Tensor, total: Tensor, buffers: Buffers, *, first: bool
) -> None:
    """Add left @ right to `total`, or fill it where this is the first product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
        return
    kind = (left.device, left.dtype)
    if total.dtype == torch.float32 and kind not in _failed and adds_in_float32(*kind):
        try:
            _add_directly(left, right, total, first=first)
            return
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Raised before anything is computed, so `total` is what it was.
            _failed.add(kind)
            log.warning(
                "products of %s are rounded before they are added to the head's gradient on %s, "
                "as adding them to float32 directly fails (%s)",
                left.dtype,
                left.device,
                str(error).partition("\n")[0],
            )
    rounded = buffers.take("product", len(total), total.shape[1], right)
    torch.mm(left, right, out=rounded)
    if first:
        total.copy_(rounded)
    else:
        total += rounded


def _add_directly(left: Tensor, right: Tensor, total: Tensor, *, first: bool) -> None:
    """The product is never rounded, and no matrix of its size is written beside the sum."""
    if first:
        torch.mm(left, right, torch.float32, out=total)
    else:
        torch.addmm(total, left, right, torch.float32, out=total)


@cache
def adds_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of this dtype can be added to float32 directly, which torch has on CUDA.

    torch 2.11 takes a float32 matrix to add to. It is tried once, on a small product that lies in
    memory as those of the head do.
    """
    if device.type != "cuda":
        return False
    left = torch.arange(1.0, 16.0, device=device).view(3, 5).to(dtype).T
    right = torch.arange(-6.0, 6.0, device=device).view(3, 4).to(dtype)
    total = torch.full((5, 4), torch.nan, device=device)
    try:
        for first in (True, False):
            _add_directly(left, right, total, first=first)
        # Whole numbers below 2^8: each product is exact.
        return torch.equal(total.cpu(), 2 * (left.cpu().float() @ right.cpu().float()))
    except (RuntimeError, TypeError):
        return False
