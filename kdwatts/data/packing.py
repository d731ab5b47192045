"""Rows of fixed length from token shards, and which rows each optimizer step takes.

Row r holds the tokens from r T to r T + T, both included: T inputs, and T targets that are one
token further on.
"""

# B sequences of a batch, T positions, N of the B T that have a target.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.data.positions import positions_in_documents
from kdwatts.data.shards import NO_TARGET, TokenShards
from kdwatts.runtime.sending import send

IGNORE = -100
"""Target of a position without a loss, as in torch's cross entropy."""


@dataclass(frozen=True)
class Batch:
    """The rows [B, T] of one forward pass, and where in the shards they stand."""

    rows: NDArray[np.int64]
    input_BT: Tensor
    target_BT: Tensor
    """Already shifted: the target of position t is the token at t + 1, or IGNORE."""
    valid_BT: Tensor | None = None
    """True where a position holds text, false at padding. None where there is no padding."""
    position_BT: Tensor | None = None
    """Place of each token in its document. None where a row is taken as one text."""
    target_place_N: Tensor | None = None
    """`target_places` of a batch that was sent to a device. None where it was not."""
    sent_from: Batch | None = None
    """The same batch in the CPU's memory, where this one was sent to a device."""

    @property
    def on_cpu(self) -> Batch:
        """The batch as it was before it was sent to a device.

        What is counted is counted here: a count on a GPU makes the host wait for all its work.
        """
        return self.sent_from or self

    @property
    def num_targets(self) -> int:
        """Number of positions that have a target."""
        return int((self.on_cpu.target_BT != IGNORE).sum())

    @property
    def target_places(self) -> Tensor:
        """Places of the positions that have a target, int64 [N], ascending.

        They count over all positions, row after row, from 0 to B T - 1. Of a batch that was sent to
        a device they lie there.
        """
        if self.target_place_N is not None:
            return self.target_place_N
        return (self.target_BT != IGNORE).flatten().nonzero()[:, 0]

    @property
    def text_BT(self) -> Tensor:
        """True [B, T] where a position holds text. All true without padding."""
        if self.valid_BT is None:
            return torch.ones_like(self.input_BT, dtype=torch.bool)
        return self.valid_BT

    @property
    def beyond_first_BT(self) -> Tensor:
        """True [B, T] at text, except at the first token of a document, which is an attention sink.

        Where a row is taken as one text, its first token counts as any other.
        """
        return self.text_BT if self.position_BT is None else self.text_BT & (self.position_BT > 0)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on `device`. The host does not wait for the copies."""
        made = replace(self.on_cpu, target_place_N=self.on_cpu.target_places)
        sent = made._changed(lambda tensor: send(tensor, device))
        return replace(sent, sent_from=self.on_cpu)

    def pinned(self) -> Batch:
        """The batch in page-locked memory, which a GPU reads by itself."""
        return self._changed(torch.Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {name: part for name, part in vars(self).items() if torch.is_tensor(part)}
        return replace(self, **{name: change(part) for name, part in tensors.items()})


_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Schedule:
    """Which rows a run trains on, and in which order. It depends on its fields alone."""

    rows: NDArray[np.int64]
    """The rows in use, ascending.

    They are the same for every seed, so seeds share a teacher cache.
    """
    rows_per_step: int
    num_steps: int
    seed: int
    heldout: NDArray[np.int64] = field(default_factory=_NO_ROWS.copy)
    """The rows that no step takes, ascending. The loss on them is read while training."""

    @property
    def taught_rows(self) -> NDArray[np.int64]:
        """Numbers of all rows that the teacher is asked about, int64 [R], ascending."""
        return np.union1d(self.rows, self.heldout)

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Row numbers, int64 [R], of optimizer step `step`, counted from 0.

        Every pass over the data is reshuffled.
        """
        places = np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        epochs, offsets = np.divmod(places, len(self.rows))
        orders = [_epoch_order(self.seed, int(epoch), len(self.rows)) for epoch in epochs]
        return self.rows[[order[offset] for order, offset in zip(orders, offsets, strict=True)]]


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def make_schedule(
    shards: TokenShards,
    *,
    sequence_length: int,
    target_tokens: int,
    rows_per_step: int,
    seed: int,
    respect_documents: bool = False,
    heldout_tokens: int = 0,
    heldout_multiple: int = 1,
) -> Schedule:
    """A schedule of whole steps that together have about `target_tokens` targets.

    The rows in use are the first of a permutation of all rows that does not depend on the seed. The
    held-out rows are the last of this permutation: about `heldout_tokens` targets, and a multiple
    of `heldout_multiple` rows. So a longer run has all the rows of a shorter one. Holding rows out
    changes none of them while the corpus is long enough.

    Raises ValueError when the shards do not fill one row, and when more than half of the rows would
    be held out.
    """
    num_rows = (shards.num_tokens - 1) // sequence_length
    if num_rows < 1:
        raise ValueError(
            f"training.sequence_length={sequence_length} is longer than the corpus, which has "
            f"{shards.num_tokens} tokens in {shards.directory}; give a shorter length, or add text"
        )
    num_targets = shards.num_targets - (shards.num_first_targets if respect_documents else 0)
    targets_per_row = sequence_length * num_targets / shards.num_tokens
    if not targets_per_row:
        raise ValueError(
            "training.respect_documents=true leaves nothing to train on: no document in "
            f"{shards.directory} has a target after its first token; set it to false, or add text"
        )
    num_heldout = math.ceil(heldout_tokens / targets_per_row / heldout_multiple) * heldout_multiple
    if 2 * num_heldout > num_rows:
        raise ValueError(
            f"training.heldout_tokens={heldout_tokens} would hold out {num_heldout} of the "
            f"corpus's {num_rows} rows, which is more than half; lower it, lower "
            "training.sequence_length, or add text"
        )
    num_steps = math.ceil(target_tokens / targets_per_row / rows_per_step)
    order = np.random.default_rng(0).permutation(num_rows)
    needed = min(num_rows - num_heldout, num_steps * rows_per_step)
    heldout = np.sort(order[num_rows - num_heldout :])
    return Schedule(np.sort(order[:needed]), rows_per_step, num_steps, seed, heldout)


def load_batch(
    shards: TokenShards,
    rows: NDArray[np.int64],
    sequence_length: int,
    *,
    respect_documents: bool = False,
) -> Batch:
    """The given rows as one batch of int64 tensors [B, T] on the CPU.

    With `respect_documents` the batch says where documents begin, and the first token of a document
    is no target.
    """
    tokens = np.stack(
        [shards.read(row * sequence_length, (row + 1) * sequence_length + 1) for row in rows]
    )
    ids = (tokens & ~NO_TARGET).astype(np.int64)
    target = np.where(tokens[:, 1:] >= NO_TARGET, IGNORE, ids[:, 1:])
    position = None
    if respect_documents:
        position = np.empty_like(target)
        for index, row in enumerate(rows):
            first = int(row) * sequence_length
            starts = shards.starts_between(first + 1, first + sequence_length + 1) - first
            target[index, starts - 1] = IGNORE
            position[index] = positions_in_documents(sequence_length, starts)
    return Batch(
        rows,
        torch.from_numpy(ids[:, :-1].copy()),
        torch.from_numpy(target),
        position_BT=None if position is None else torch.from_numpy(position),
    )
