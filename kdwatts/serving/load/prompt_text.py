"""The text that prompts are cut from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PromptText:
    """A text, as the model reads it."""

    ids: NDArray[np.int64]
    """The model's tokens, int64 [n]."""
    tokenizer: Any
    """The model's, for engines that take prompts as text."""
    key: str
    """Hash of the file, or key of the corpus: what a record says of the text."""
