"""A model beside a tokenizer whose words are the ids themselves: `17 523 9` is those three tokens.

`transformers serve` takes and gives text alone, and a text that a model wrote may read back as
other tokens than it wrote. With this tokenizer each id is a word of its own, so none changes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdwatts.models.hub_files import TOKENIZER_FILES
from kdwatts.models.served_folder import BESIDE_TOKENIZER


@contextmanager
def folder_of_numbers(model_dir: Path, *, rows: int, end_ids: Sequence[int]) -> Iterator[Path]:
    """A folder of links to a model of `rows` vocabulary rows, with that tokenizer.

    The model's own settings for writing are left out but for the tokens that end a text.
    """
    with tempfile.TemporaryDirectory(prefix="kdwatts-numbers-") as temporary:
        folder = Path(temporary)
        replaced = {
            path.name
            for pattern in TOKENIZER_FILES
            for path in model_dir.glob(pattern)
            if path.name not in BESIDE_TOKENIZER
        }
        for path in sorted(model_dir.iterdir()):
            if path.is_file() and path.name not in {*replaced, "generation_config.json"}:
                (folder / path.name).symlink_to(path.resolve())
        ends = {"eos_token_id": list(end_ids), "pad_token_id": end_ids[0]}
        for name, content in (
            ("tokenizer.json", _tokenizer(rows)),
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
            ("generation_config.json", ends),
        ):
            (folder / name).write_text(json.dumps(content), "utf-8")
        yield folder


def as_words(ids: Sequence[int]) -> str:
    """The text that this tokenizer reads as the ids."""
    return " ".join(map(str, ids))


def as_ids(words: str) -> list[int]:
    """The ids of a text of this tokenizer. Raises ValueError for any other."""
    return [int(word) for word in words.split()]


def _tokenizer(rows: int) -> dict[str, object]:
    """The file of a tokenizer of words, in the format of the library tokenizers."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        # A word that is no id stands for none, so there is no unknown one: it is never written.
        "model": {"type": "WordLevel", "vocab": {str(i): i for i in range(rows)}, "unk_token": ""},
    }
