"""What models read when serving is measured: your own text, or the end of the corpus."""

# B prompts, T tokens of each.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.config.evaluation import InferenceGrid
from kdwatts.config.serving import Workload
from kdwatts.data.local_rows import read_rows
from kdwatts.data.shards import NO_TARGET, TokenShards
from kdwatts.runtime.paths import resolve_dir

Prompts = Callable[[int, int], Tensor]
"""B prompts of T tokens, [B, T] int64 on the CPU."""


LOOP_PROMPTS = "eval.inference.prompts"
"""The setting that names the eager loop's file."""
ENGINE_PROMPTS = "eval.serving.workload.prompts"
"""The setting that names the file for serving under load."""


def prompts_file(asked: InferenceGrid | Workload) -> Path | None:
    """The file that prompts are taken from. None for the corpus.

    Raises ValueError when the file does not exist.
    """
    if asked.prompts is None:
        return None
    path = resolve_dir(asked.prompts)
    if not path.is_file():
        setting = LOOP_PROMPTS if isinstance(asked, InferenceGrid) else ENGINE_PROMPTS
        raise ValueError(
            f"{setting}={asked.prompts}: this file does not exist; give a text or JSONL file, or "
            "null for the corpus"
        )
    return path


def ids_of_file(path: Path, tokenizer: Any, *, setting: str) -> NDArray[np.int64]:
    """The tokens of a file, as `text_of_file` reads it."""
    return _words(text_of_file(path, setting=setting), tokenizer)


def text_of_file(path: Path, *, setting: str) -> str:
    """A text, or the `text` of a JSONL file's lines with a blank line between.

    The file is UTF-8 in every locale, with or without a byte order mark. Raises ValueError, which
    begins with the name of the setting, for a file that cannot be read so.
    """
    return _text_of_lines(path, setting) if path.suffix == ".jsonl" else _plain_text(path, setting)


def ids_of_corpus(
    shards: TokenShards, *, at_most: int, read_by: Any = None, written_by: Any = None
) -> NDArray[np.int64]:
    """The corpus's last tokens, whether or not a training uses them: `at_most` so many.

    A model with another vocabulary than the corpus's gets the text of these tokens in its own,
    which may be more or fewer: `written_by` is the corpus's tokenizer, `read_by` the model's.
    """
    start = max(0, shards.num_tokens - at_most)
    ids = (shards.read(start, shards.num_tokens) & ~NO_TARGET).astype(np.int64)
    if read_by:
        text = written_by.decode(ids.tolist(), skip_special_tokens=True)
        ids = _words(text, read_by)
    return ids


def prompts_of_file(path: Path, tokenizer: Any) -> Prompts:
    """Prompts cut one after the other from a file, as `ids_of_file` reads it."""
    ids = ids_of_file(path, tokenizer, setting=LOOP_PROMPTS)
    return lambda batch, length: _cut(ids, batch, length, str(path))


def _text_of_lines(path: Path, setting: str) -> str:
    try:
        return "\n\n".join(row["text"] for _, row in read_rows([path]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{setting}={path}: a line is not a JSON object with `text` "
            f"({type(error).__name__}: {error}); correct it, or give a plain text"
        ) from None


def _plain_text(path: Path, setting: str) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting}={path} is not UTF-8 ({error}); save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def prompts_of_corpus(
    shards: TokenShards, *, read_by: Any = None, written_by: Any = None
) -> Prompts:
    """Prompts cut one after the other from the corpus's end, as `ids_of_corpus` reads it."""

    def cut(batch: int, length: int) -> Tensor:
        # Twice as many, since another tokenizer may make fewer tokens of the same text.
        wanted = batch * length * (2 if read_by else 1)
        ids = ids_of_corpus(shards, at_most=wanted, read_by=read_by, written_by=written_by)
        return _cut(ids, batch, length, "the corpus")

    return cut


def _words(text: str, tokenizer: Any) -> NDArray[np.int64]:
    """The tokens of a text; a control token that it quotes is words, as in the corpus."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return np.array(encoded["input_ids"], dtype=np.int64)


def _cut(ids: NDArray[np.int64], batch: int, length: int, source: str) -> Tensor:
    if len(ids) < batch * length:
        raise ValueError(
            f"eval.inference: {batch} prompts of {length} tokens need {batch * length} tokens, but "
            f"{source} has {len(ids)}; ask for fewer or shorter prompts, or give a longer text"
        )
    return torch.from_numpy(ids[: batch * length].reshape(batch, length))
