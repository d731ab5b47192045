"""Positions of a row: which are compared where not all are, and which are inside each document."""

# B rows of a batch, M positions drawn in each; T positions of a row.

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
    return np.stack([_drawn(int(row), sequence_length, count) for row in rows])


# A micro-batch's positions are asked for by its count, by its teacher and by its loss.
@lru_cache(maxsize=1024)
def _drawn(row: int, sequence_length: int, count: int) -> NDArray[np.int64]:
    generator = np.random.default_rng([_STREAM, row])
    drawn = generator.choice(sequence_length - 1, count, replace=False)
    return np.sort(drawn.astype(np.int64)) + 1


def positions_in_documents(sequence_length: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each token of a row in its document, counted from 0, int64 [T].

    `starts` are the places in the row where documents begin. The end of a document that began in an
    earlier row counts from 0 too, as the row holds nothing before it.
    """
    begin_T = np.zeros(sequence_length, dtype=np.int64)
    inside = starts[starts < sequence_length]
    begin_T[inside] = inside
    return np.arange(sequence_length) - np.maximum.accumulate(begin_T)
