"""Documents inside a row: where they begin, and attention and positions kept inside them."""

# B sequences of a batch, T positions; Q and K are T as the place of a query and of a key.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def positions_in_documents(sequence_length: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each token of a row in its document, [T], counted from 0.

    `starts` are the places in the row at which documents begin. What is left of a document that
    began in an earlier row counts from 0 as well: the row holds nothing before it.
    """
    begin_T = np.zeros(sequence_length, dtype=np.int64)
    inside = starts[starts < sequence_length]
    begin_T[inside] = inside
    return np.arange(sequence_length) - np.maximum.accumulate(begin_T)


def attention_inputs(position_BT: Tensor | None) -> dict[str, Tensor]:
    """What a decoder's body takes so that each token sees its own document alone, up to itself.

    The positions, which restart with every document, and a mask [B, 1, Q, K] that is true where a
    query sees a key. The mask is given whole: transformers would take it from the positions, but
    only where it is asked for none, and only in some versions. Nothing for rows that are one text.
    """
    if position_BT is None:
        return {}
    place_T = torch.arange(position_BT.shape[1], device=position_BT.device)
    begin_BT = place_T - position_BT
    same_BQK = begin_BT[:, :, None] == begin_BT[:, None, :]
    causal_QK = place_T[:, None] >= place_T[None, :]
    return {"position_ids": position_BT, "attention_mask": (same_BQK & causal_QK)[:, None]}
