"""Positions of a row: which are compared where not all are, and which are inside each document."""

# B rows of a batch, M positions drawn in each; T positions of a row; Q and K are T as the place of
# a query and of a key.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STREAM = 0x6B64


def sampled_positions(
    rows: NDArray[np.int64], *, sequence_length: int, count: int
) -> NDArray[np.int64]:
    """`count` distinct positions of each row, ascending, int64 [B, M].

    They depend on the row's number alone: not on batch, order, seed or rank. The first position is
    never drawn: it is an attention sink and unlike all others.

    Raises ValueError when a row has too few positions.
    """
    if not 0 < count < sequence_length:
        raise ValueError(
            f"sampled_positions: cannot draw {count} positions from a sequence of "
            f"{sequence_length}; give 1 to {sequence_length - 1}"
        )
    drawn = [
        np.random.default_rng([_STREAM, int(row)]).choice(sequence_length - 1, count, replace=False)
        for row in rows
    ]
    return np.sort(np.stack(drawn).astype(np.int64), axis=1) + 1


def positions_in_documents(sequence_length: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each token of a row in its document, counted from 0, int64 [T].

    `starts` are the places in the row where documents begin. The end of a document that began in an
    earlier row counts from 0 too, as the row holds nothing before it.
    """
    begin_T = np.zeros(sequence_length, dtype=np.int64)
    inside = starts[starts < sequence_length]
    begin_T[inside] = inside
    return np.arange(sequence_length) - np.maximum.accumulate(begin_T)


def attention_inputs(position_BT: Tensor | None) -> dict[str, Tensor]:
    """Arguments for a decoder's body with which each token sees its own document alone.

    They are the positions [B, T], which restart with every document, and a mask [B, 1, Q, K] that
    is true where a query sees a key. The mask is given in full: transformers makes one from the
    positions only when no other is given, and only in some versions. Without `position_BT` there
    are no arguments.
    """
    if position_BT is None:
        return {}
    place_T = torch.arange(position_BT.shape[1], device=position_BT.device)
    begin_BT = place_T - position_BT
    same_BQK = begin_BT[:, :, None] == begin_BT[:, None, :]
    causal_QK = place_T[:, None] >= place_T[None, :]
    return {"position_ids": position_BT, "attention_mask": (same_BQK & causal_QK)[:, None]}
