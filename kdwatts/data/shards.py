"""Token shards: flat files of token ids with an index, written once and memory-mapped ever after.

A token is four bytes, little endian: the id in the low 31 bits (Qwen2.5 ids exceed 2^17), and
NO_TARGET where a token is context only, such as a prompt.
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


def encode_document(document: str | list[Turn], tokenizer: Any) -> NDArray[np.uint32]:
    """A document's tokens, closed by the end token; only assistant turns are targets.

    Raises ValueError for a conversation when the tokenizer has no chat template.
    """
    if isinstance(document, str):
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        return np.asarray([*ids, tokenizer.eos_token_id], dtype=np.uint32)
    if not tokenizer.chat_template:
        raise ValueError(
            "data: the source holds conversations and the tokenizer has no chat template; "
            "choose an instruct model's tokenizer or a source of plain text"
        )
    tokens = np.empty(0, dtype=np.uint32)
    for end, turn in enumerate(document, start=1):
        is_target = turn["role"] == "assistant"
        following = end < len(document) and document[end]["role"] == "assistant"
        # The header of an assistant turn belongs to its prompt: it is given, not produced.
        text = tokenizer.apply_chat_template(
            document[:end], tokenize=False, add_generation_prompt=following
        )
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.uint32)
        fresh = ids[len(tokens) :]
        tokens = np.concatenate([tokens, fresh if is_target else fresh | NO_TARGET])
    return tokens


def write_shards(
    out_dir: Path, documents: Iterable[NDArray[np.uint32]], *, shard_tokens: int, source: dict[str, Any]
) -> dict[str, Any]:
    """Write documents as shards of about `shard_tokens` and the index that describes them.

    `source` is copied into the index. Raises ValueError when there is no target token at all.
    """
    shards: list[dict[str, Any]] = []
    num_documents = num_targets = 0
    for number, block in enumerate(_blocks(documents, shard_tokens)):
        tokens = np.concatenate(block)
        path = out_dir / f"tokens-{number:05d}.bin"
        tokens.astype("<u4").tofile(path)
        shards.append({"file": path.name, "tokens": len(tokens), "sha256": sha256_file(path)})
        num_documents += len(block)
        num_targets += int((tokens < NO_TARGET).sum())
    if num_targets == 0:
        raise ValueError(
            f"data.source.path={source.get('path')}: no text to train on in {num_documents} documents; "
            "check the file, the field names and data.num_documents"
        )
    index = {
        "schema": SCHEMA,
        "num_documents": num_documents,
        "num_tokens": sum(shard["tokens"] for shard in shards),
        "num_targets": num_targets,
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
    if block:
        yield block


class TokenShards:
    """The tokens of a shard folder as one long sequence, read through memory maps."""

    def __init__(self, directory: Path) -> None:
        """Open and verify a folder; ValueError names a shard whose checksum is not the index's."""
        self.directory = directory
        self.index = read_json(directory / INDEX_NAME)
        self._maps = []
        for shard in self.index["shards"]:
            path = directory / shard["file"]
            found = sha256_file(path) if path.is_file() else "no file"
            if found != shard["sha256"]:
                raise ValueError(
                    f"shards: {path} has sha256 {found[:12]}, the index says {shard['sha256'][:12]}; "
                    f"delete {directory} and rerun"
                )
            self._maps.append(np.memmap(path, dtype="<u4", mode="r"))
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._maps)])

    @property
    def num_tokens(self) -> int:
        return int(self._starts[-1])

    @property
    def num_targets(self) -> int:
        return int(self.index["num_targets"])

    def read(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Tokens `start` to `stop` as stored, NO_TARGET bits included."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        parts = [
            self._maps[i][max(0, start - self._starts[i]) : stop - self._starts[i]]
            for i in range(first, last)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
