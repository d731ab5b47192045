"""Token shards: flat files of token ids with an index, written once and memory-mapped ever after.

A token is four bytes, little endian: the id in the low 31 bits (Qwen2.5 ids exceed 2^17), and
NO_TARGET where a token is context only, such as a prompt. Beside each shard lie the places in it at
which documents begin: an end token cannot tell, for a conversation holds many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.documents import Turn
from kdwatts.fingerprint import sha256_file
from kdwatts.records import SCHEMA, read_json, write_json

NO_TARGET = np.uint32(1 << 31)
INDEX_NAME = "index.json"
FIXED_DATE = {"date_string": "26 Jul 2024"}
"""For chat templates: Llama 3.2's writes today's date, unless given one. This is Llama 3.1's."""


def encode_document(document: str | list[Turn], tokenizer: Any) -> NDArray[np.uint32]:
    """A document's tokens. Text is all target and closed by the end token.

    Of a conversation, rendered by the tokenizer's chat template, only the assistant's words and
    what closes them are targets. Raises ValueError when the tokenizer cannot render it.
    """
    if isinstance(document, str):
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        return np.asarray([*ids, tokenizer.eos_token_id], dtype=np.uint32)
    if not tokenizer.chat_template:
        raise ValueError(
            "data: the source holds conversations and the tokenizer has no chat template; "
            "choose an instruct model's tokenizer or a source of plain text"
        )
    return _encode_conversation(document, tokenizer)


def _encode_conversation(turns: list[Turn], tokenizer: Any) -> NDArray[np.uint32]:
    """Tokens of the whole rendering; the assistant's are those that begin inside its turns.

    Turns are told apart by characters: tokens of a part need not be a part of the tokens.
    """
    if not turns:
        return np.empty(0, dtype=np.uint32)
    text = _render(turns, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.asarray(encoded["input_ids"], dtype=np.uint32)
    begins = np.asarray([begin for begin, _ in encoded["offset_mapping"]], dtype=np.int64)
    is_target = np.zeros(len(ids), dtype=bool)
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        # The header of an assistant turn belongs to its prompt: it is given, not produced.
        before = _render(turns[:index], tokenizer, add_generation_prompt=True) if index else ""
        after = _render(turns[: index + 1], tokenizer)
        if not (after.startswith(before) and text.startswith(after)):
            raise ValueError(
                f"data: the tokenizer's chat template renders turn {index + 1} of a conversation "
                "otherwise when more follows, so its tokens cannot be told apart; "
                "choose another tokenizer or a source of plain text"
            )
        is_target |= (begins >= len(before)) & (begins < len(after))
    return np.where(is_target, ids, ids | NO_TARGET)


def _render(turns: list[Turn], tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **FIXED_DATE,
    )


def write_shards(
    out_dir: Path,
    documents: Iterable[NDArray[np.uint32]],
    *,
    shard_tokens: int,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Write documents as shards of about `shard_tokens` and the index that describes them.

    `source` is copied into the index. Raises ValueError when there is no target token at all.
    """
    shards: list[dict[str, Any]] = []
    num_documents = num_targets = num_first_targets = 0
    for number, block in enumerate(_blocks(documents, shard_tokens)):
        tokens = np.concatenate(block)
        path = out_dir / f"tokens-{number:05d}.bin"
        path.write_bytes(tokens.astype("<u4").tobytes())
        # A document of no token begins nowhere.
        lengths = [len(document) for document in block if len(document)]
        starts = np.cumsum([0, *lengths])[:-1]
        starts_path = out_dir / f"documents-{number:05d}.bin"
        starts_path.write_bytes(starts.astype("<u8").tobytes())
        shards.append(
            {
                "file": path.name,
                "tokens": len(tokens),
                "sha256": sha256_file(path),
                "documents_file": starts_path.name,
                "documents_sha256": sha256_file(starts_path),
            }
        )
        num_documents += len(block)
        num_targets += int((tokens < NO_TARGET).sum())
        num_first_targets += int((tokens[starts] < NO_TARGET).sum())
    if num_targets == 0:
        raise ValueError(
            f"data.source.path={source.get('path')}: no text to train on in {num_documents} "
            "documents; check the file, the field names and data.num_documents"
        )
    index = {
        "schema": SCHEMA,
        "num_documents": num_documents,
        "num_tokens": sum(shard["tokens"] for shard in shards),
        "num_targets": num_targets,
        "num_first_targets": num_first_targets,
        "source": source,
        "shards": shards,
    }
    write_json(out_dir / INDEX_NAME, index)
    return index


def _blocks(
    documents: Iterable[NDArray[np.uint32]], shard_tokens: int
) -> Iterator[list[NDArray[np.uint32]]]:
    block: list[NDArray[np.uint32]] = []
    size = 0
    for document in documents:
        block.append(document)
        size += len(document)
        if size >= shard_tokens:
            yield block
            block, size = [], 0
    if size:
        yield block


class TokenShards:
    """The tokens of a shard folder as one long sequence, read through memory maps."""

    def __init__(self, directory: Path) -> None:
        """Open and verify a folder; ValueError names a shard whose checksum is not the index's."""
        self.directory = directory
        self.index = read_json(directory / INDEX_NAME)
        self._maps = []
        begins = []
        for shard in self.index["shards"]:
            path = _verified(directory, shard["file"], shard["sha256"])
            self._maps.append(np.memmap(path, dtype="<u4", mode="r"))
            path = _verified(directory, shard["documents_file"], shard["documents_sha256"])
            begins.append(np.fromfile(path, dtype="<u8").astype(np.int64))
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._maps)])
        self._documents = np.concatenate(
            [start + begin for start, begin in zip(self._starts[:-1], begins, strict=True)]
        )

    @property
    def num_tokens(self) -> int:
        return int(self._starts[-1])

    @property
    def num_targets(self) -> int:
        return int(self.index["num_targets"])

    @property
    def num_first_targets(self) -> int:
        """Targets that are first tokens of documents, which nothing before them foretells."""
        return int(self.index["num_first_targets"])

    def starts_between(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens from `start` to before `stop` at which documents begin, ascending."""
        low, high = np.searchsorted(self._documents, [start, stop])
        return self._documents[low:high]

    def read(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Tokens `start` to `stop` as stored, NO_TARGET bits included."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        parts = [
            self._maps[i][max(0, start - self._starts[i]) : stop - self._starts[i]]
            for i in range(first, last)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _verified(directory: Path, name: str, expected: str) -> Path:
    """The path of a file whose checksum is the index's; ValueError names it when it is not."""
    path = directory / name
    found = sha256_file(path) if path.is_file() else "no file"
    if found != expected:
        raise ValueError(
            f"shards: {path} has sha256 {found[:12]}, the index says {expected[:12]}; "
            f"delete {directory} and rerun"
        )
    return path
