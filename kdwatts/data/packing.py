"""Rows of fixed length from token shards, and which rows each optimizer step takes.

Row r holds tokens r*T to r*T + T, both ends included: T inputs and, one further on, T targets.
"""

# B sequences of a batch, T positions.

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.data.shards import NO_TARGET, TokenShards

IGNORE = -100
"""Target of a position that bears no loss; the convention of torch's cross entropy."""


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, and where in the shards they stand."""

    rows: NDArray[np.int64]
    input_BT: Tensor
    target_BT: Tensor
    """Already shifted: the target of position t is the token at t + 1, or IGNORE."""

    @property
    def num_targets(self) -> int:
        return int((self.target_BT != IGNORE).sum())


@dataclass(frozen=True)
class Schedule:
    """Which rows a run trains on, in which order: a pure function of its fields."""

    rows: NDArray[np.int64]
    """The rows in use, ascending; the same for every seed, so that seeds share a teacher cache."""
    rows_per_step: int
    num_steps: int
    seed: int

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Rows of optimizer step `step`, counted from 0; every pass over the data is reshuffled."""
        places = np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        epochs, offsets = np.divmod(places, len(self.rows))
        orders = [_epoch_order(self.seed, int(epoch), len(self.rows)) for epoch in epochs]
        return self.rows[[order[offset] for order, offset in zip(orders, offsets, strict=True)]]


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def make_schedule(
    shards: TokenShards, *, sequence_length: int, target_tokens: int, rows_per_step: int, seed: int
) -> Schedule:
    """A schedule of whole steps that together bear about `target_tokens` targets.

    The rows in use are drawn from all the shards by a permutation that ignores the seed.
    Raises ValueError when the shards do not fill one row.
    """
    num_rows = (shards.num_tokens - 1) // sequence_length
    if num_rows < 1:
        raise ValueError(
            f"training.sequence_length={sequence_length} is longer than the corpus of "
            f"{shards.num_tokens} tokens in {shards.directory}; shorten it or add text"
        )
    targets_per_row = sequence_length * shards.num_targets / shards.num_tokens
    num_steps = math.ceil(target_tokens / targets_per_row / rows_per_step)
    needed = min(num_rows, num_steps * rows_per_step)
    rows = np.sort(np.random.default_rng(0).permutation(num_rows)[:needed])
    return Schedule(rows, rows_per_step, num_steps, seed)


def load_batch(shards: TokenShards, rows: NDArray[np.int64], sequence_length: int) -> Batch:
    """The given rows as one batch of int64 tensors on the CPU."""
    tokens = np.stack(
        [shards.read(row * sequence_length, (row + 1) * sequence_length + 1) for row in rows]
    )
    ids = (tokens & ~NO_TARGET).astype(np.int64)
    target = np.where(tokens[:, 1:] >= NO_TARGET, IGNORE, ids[:, 1:])
    return Batch(rows, torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(target))
