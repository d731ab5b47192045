"""Documents as tokens, unless evaluation texts stand in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.documents import Document
from kdwatts.data.overlap import Grams, texts_in
from kdwatts.data.shards import encode_documents


def encode_screened(
    documents: Sequence[Document], tokenizer: Any, grams: Grams | None
) -> list[NDArray[np.uint32] | dict[int, str]]:
    """Each document's tokens or, where evaluation texts stand in it, what `texts_in` finds.

    Without grams nothing is looked for.
    """
    found = [texts_in(one.pieces, grams) if grams else {} for one in documents]
    passed = [one for one, texts in zip(documents, found, strict=True) if not texts]
    encoded = iter(encode_documents(passed, tokenizer))
    return [texts or next(encoded) for texts in found]
