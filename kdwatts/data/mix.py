"""Several sources as one corpus, each with its share of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.shards import NO_TARGET


@dataclass
class PartSize:
    """What one source gave to the corpus, counted while it is written."""

    num_documents: int = 0
    num_tokens: int = 0
    num_targets: int = 0
    num_seen: int = 0
    """Documents read from it, in all epochs."""
    num_dropped: dict[str, int] = field(default_factory=dict)
    """Reason to the number of documents that were left out.

    The reasons are not_drawn, contaminated, empty (of any word) and blank_answer.
    """

    is_exhausted: bool = False
    """Whether it had no more documents when its turn came, which ended the corpus."""

    def drop(self, reason: str) -> None:
        """Count one document that was left out, by its reason."""
        self.num_dropped[reason] = self.num_dropped.get(reason, 0) + 1


def mixed(
    streams: Sequence[Iterable[NDArray[np.uint32]]],
    weights: Sequence[float],
    sizes: Sequence[PartSize],
) -> Iterator[NDArray[np.uint32]]:
    """The documents of all streams, uint32 [L], each from the stream furthest behind its share.

    Shares are shares of tokens, prompts included. The next stream is the one with the fewest tokens
    over its weight, and the earlier one of two that are equal. So the order depends on documents
    and weights alone: not on random numbers, workers or ranks. At every point each stream has its
    share, up to one document. The mix ends when the next stream has no more documents. Nothing is
    repeated, and the rest of the other streams is left out. What each stream gave is added to its
    entry in `sizes`, which also says which stream ended the mix.
    """
    sources = [iter(stream) for stream in streams]
    while True:
        behind = min(range(len(sources)), key=lambda i: sizes[i].num_tokens / weights[i])
        document = next(sources[behind], None)
        size = sizes[behind]
        if document is None:
            size.is_exhausted = True
            return
        size.num_documents += 1
        size.num_tokens += len(document)
        size.num_targets += int((document < NO_TARGET).sum())
        yield document
