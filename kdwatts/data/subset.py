"""A part of a source, drawn by the documents themselves: the same part in any order.

A document's place, between 0 and 1, is a hash of the seed and its id. A fraction takes the places
below it. A number of documents takes the lowest places. So a larger part holds every smaller one.
Where rows share an id, such as the name of a set, the id belongs to the first of them, and the
others are known by their content as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from heapq import nsmallest

from kdwatts.data.documents import Document

Draw = Callable[[Document], bool]
"""Whether a document is in the part. It is called for every document of one reading, in order."""


def place(sample_seed: int, document_id: str) -> int:
    """The place of a document among 2^64 places, the same on every machine."""
    text = f"{sample_seed}\n{document_id}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _placing(sample_seed: int) -> Callable[[Document], int]:
    """The place of each document of one reading, to be asked once of each, in its order.

    It remembers the places of ids, about 70 bytes of memory for each document that has one.
    """
    seen: set[int] = set()

    def placed(document: Document) -> int:
        found = place(sample_seed, document.id)
        if document.own_id is None:
            return found
        if found in seen:
            return place(sample_seed, f"{document.own_id}\n{document.content_hash}")
        seen.add(found)
        return found

    return placed


def drawing(
    read: Callable[[], Iterable[Document]],
    *,
    fraction: float,
    num_documents: int | None,
    sample_seed: int,
) -> Callable[[], Draw]:
    """A function that makes one draw for each reading of a source.

    For a number of documents, the source is read once beforehand, through a heap of that number.
    For a fraction it is not. When everything is taken, nothing is hashed. Of documents that share a
    place, the one with the lower content hash comes first, and of equal documents the first.
    """
    # The product is exact: multiplying by a power of two rounds nothing.
    limit = fraction * 2**64

    def draw_fraction() -> Draw:
        if fraction == 1.0:
            return lambda document: True
        placed = _placing(sample_seed)
        return lambda document: placed(document) < limit

    if num_documents is None:
        return draw_fraction
    placed = _placing(sample_seed)
    keys = ((placed(document), document.content_hash) for document in read())
    lowest = nsmallest(num_documents, (key for key in keys if key[0] < limit))
    if len(lowest) < num_documents:
        return draw_fraction
    last = lowest[-1]
    num_last = lowest.count(last)

    def draw() -> Draw:
        left, placed = num_last, _placing(sample_seed)

        def is_drawn(document: Document) -> bool:
            nonlocal left
            found = placed(document), document.content_hash
            left -= found == last
            return found < last or (found == last and left >= 0)

        return is_drawn

    return draw
