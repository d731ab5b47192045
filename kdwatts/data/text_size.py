"""How many bytes of text a token stands for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bytes_of_tokens(tokenizer: Any) -> NDArray[np.int64] | None:
    """UTF-8 bytes of each token id, int64 [V]. Special and added tokens have 0.

    None for a tokenizer that is not byte-level, where a token's bytes depend on its neighbours.
    None also for a tokenizer that is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        return None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    decoder = backend["decoder"] or {}
    kinds = {decoder.get("type"), *(part["type"] for part in decoder.get("decoders", []))}
    if "ByteLevel" not in kinds:
        return None
    # A byte-level token is spelt with one character for each of its bytes.
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    sizes = np.asarray([len(name or "") for name in names], dtype=np.int64)
    sizes[[token["id"] for token in backend["added_tokens"]]] = 0
    return sizes
