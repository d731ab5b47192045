"""Several sources as one corpus, each with its share of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.shards import NO_TARGET


@dataclass
class PartSize:
    """What one source gave to the corpus, counted as it is written."""

    num_documents: int = 0
    num_tokens: int = 0
    num_targets: int = 0
    num_seen: int = 0
    """Documents read of it, each epoch's."""
    num_dropped: dict[str, int] = field(default_factory=dict)
    """Reason to the number of documents read and left out: not_drawn, contaminated, empty of any
    word, or blank_answer."""

    is_exhausted: bool = False
    """Whether it had no more when its turn came, which ended the corpus."""

    def drop(self, reason: str) -> None:
        self.num_dropped[reason] = self.num_dropped.get(reason, 0) + 1


def mixed(
    streams: Sequence[Iterable[NDArray[np.uint32]]],
    weights: Sequence[float],
    sizes: Sequence[PartSize],
) -> Iterator[NDArray[np.uint32]]:
    """The documents of all streams, each next one from the stream furthest behind its share.

    Shares are of tokens, prompts included: whoever has the fewest tokens over its weight is next,
    the earlier stream of two alike. So the order is a function of documents and weights alone, no
    draw, worker or rank has part in it, and at every point each stream is at its share within a
    document. It ends when the stream whose turn it is has no more: nothing is repeated, and the
    rest of the others is left. What each gave is added to its `sizes`, which say who ended it.
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
