"""Looks of the host at flags that a device keeps, without a wait for each token."""

# B rows still written to, F flags of a row.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Pace:
    """How often the host looks, and what it does with what it sees."""

    every: int
    """Tokens from one look to the next."""
    late: int
    """Tokens written between the look and its reading, so that the device never runs dry."""
    kept_share: float
    """Rows leave when at most this share of them is still written to."""

    def lets_leave(self, num_open: int, num_rows: int) -> bool:
        """Whether the ended rows of a batch are to leave it."""
        return num_open < num_rows and num_open <= self.kept_share * num_rows


EACH_TOKEN = Pace(every=1, late=0, kept_share=1.0)
"""For a CPU, where a look costs nothing and a row that stays costs its share of the work."""
SELDOM = Pace(every=16, late=4, kept_share=0.5)
"""For a GPU. A batch of half the rows repays the copy of its cache and a new graph."""


def pace_of(device: torch.device) -> Pace:
    """The pace that suits a device."""
    return EACH_TOKEN if device.type == "cpu" else SELDOM


class LateLooks:
    """The flags of all rows as the host last saw them."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._copy_FB: Tensor | None = None
        self._copied: torch.Event | None = None

    def start(self, flags_FB: Tensor, *, written: int) -> None:
        """Begin a look after so many tokens, if one is due. It waits for nothing."""
        if written % self._pace.every:
            return
        if flags_FB.device.type == "cpu":
            self._copy_FB = flags_FB.clone()
            return
        # Only to locked memory does a GPU copy while the host goes on.
        self._copy_FB = torch.empty(flags_FB.shape, dtype=flags_FB.dtype).pin_memory()
        self._copy_FB.copy_(flags_FB, non_blocking=True)
        self._copied = torch.Event(flags_FB.device.type)
        self._copied.record()

    def read(self, *, written: int) -> NDArray[np.bool_] | None:
        """The flags [F, B] of the look that is to be read after so many tokens; None of no look.

        The device still has work meanwhile: the tokens after the look.
        """
        if self._copy_FB is None or written % self._pace.every != self._pace.late:
            return None
        if self._copied and not self._copied.query():
            self._copied.synchronize()
        flags_FB, self._copy_FB = self._copy_FB, None
        return flags_FB.numpy()
