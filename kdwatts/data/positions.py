"""Which positions of a row are compared where not all are, alike for teacher, student and cache."""

# B rows of a batch, M positions drawn in each.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STREAM = 0x6B64


def sampled_positions(
    rows: NDArray[np.int64], *, sequence_length: int, count: int
) -> NDArray[np.int64]:
    """`count` distinct positions of each row [B, M], ascending, drawn by the row's number alone.

    The first position is never drawn: an attention sink, it is unlike all others. So the positions
    of a row do not depend on batch, order, seed or rank. Raises ValueError when a row has too few.
    """
    if not 0 < count < sequence_length:
        raise ValueError(
            f"sampled_positions: {count} positions of a sequence of {sequence_length}; "
            f"give 1 to {sequence_length - 1}"
        )
    drawn = [
        np.random.default_rng([_STREAM, int(row)]).choice(sequence_length - 1, count, replace=False)
        for row in rows
    ]
    return np.sort(np.stack(drawn).astype(np.int64), axis=1) + 1
