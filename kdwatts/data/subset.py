"""A part of a source, drawn by the documents themselves: in any order it is the same one.

A document's place between 0 and 1 is a hash of the seed and of its id. A fraction takes the places
below it, a number of documents the lowest places, so that a smaller part lies in every larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from heapq import nsmallest

from kdwatts.data.documents import Document

Draw = Callable[[Document], bool]
"""Whether a document is in the part; asked of every document of one reading, in its order."""


def place(sample_seed: int, document_id: str) -> int:
    """Where a document stands among 2^64 places, the same on every machine."""
    text = f"{sample_seed}\n{document_id}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def drawing(
    read: Callable[[], Iterable[Document]],
    *,
    fraction: float,
    num_documents: int | None,
    sample_seed: int,
) -> Callable[[], Draw]:
    """Makes a draw for each reading of a source.

    For a number of documents the source is read once beforehand, through a heap of that number; for
    a fraction it is not, and nothing is hashed where all is taken. Of documents that share a place
    those of lower content hash are lower, and of copies the first are taken.
    """

    def key(document: Document) -> tuple[int, str]:
        return place(sample_seed, document.id), document.content_hash

    def in_fraction(document: Document) -> bool:
        # The product is exact: multiplying by a power of two rounds nothing.
        return fraction == 1.0 or place(sample_seed, document.id) < fraction * 2**64

    if num_documents is None:
        return lambda: in_fraction
    lowest = nsmallest(num_documents, (key(d) for d in read() if in_fraction(d)))
    if len(lowest) < num_documents:
        return lambda: in_fraction
    last = lowest[-1]
    num_last = lowest.count(last)

    def draw() -> Draw:
        left = num_last

        def is_drawn(document: Document) -> bool:
            nonlocal left
            found = key(document)
            left -= found == last
            return found < last or (found == last and left >= 0)

        return is_drawn

    return draw
