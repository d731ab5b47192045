"""Token shards: flat files of token ids with an index, written once and then memory-mapped.

A token is four bytes, little endian. The low 31 bits are its id (ids of Qwen2.5 exceed 2^17). The
bit NO_TARGET marks a token that is context only, such as a prompt. Beside each shard are the places
where documents begin. An end token could not tell them, since a conversation holds many.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.chat import OTHER, encode_conversation
from kdwatts.data.documents import Document
from kdwatts.data.turns import Turn
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime.fingerprint import sha256_file

NO_TARGET = np.uint32(1 << 31)
INDEX_NAME = "index.json"
PROGRESS_NAME = "shard.json"
"""The entry of a kept shard in the index, and how far the sources were read when it was full."""
SHARD_PREFIX = "shard-"

TEXTS_AT_ONCE = 64
"""Texts given to the tokenizer at once. It takes some 100 bytes per token until it is done."""


def encode_document(
    document: str | list[Turn], tokenizer: Any, *, place: str = "data"
) -> NDArray[np.uint32]:
    """The tokens of a document, uint32 [L]. Those that are no targets are marked.

    In a text every token is a target. The end token closes it and is its only control token: a
    control token that the text quotes is encoded as ordinary words. So a page about chat templates
    has one end. In a conversation, which the chat template renders, only the assistant's words and
    the tokens that close them are targets.

    Raises ValueError, which begins with `place`, when the tokenizer cannot render a conversation.
    """
    if isinstance(document, str):
        ids = tokenizer(document, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return np.asarray([*ids, tokenizer.eos_token_id], dtype=np.uint32)
    if not tokenizer.chat_template:
        raise ValueError(
            f"{place}: the source holds conversations, but the tokenizer has no chat template; "
            f"{OTHER}"
        )
    ids, is_target = encode_conversation(document, tokenizer, place)
    return np.where(is_target, ids, ids | NO_TARGET)


def encode_documents(documents: Sequence[Document], tokenizer: Any) -> list[NDArray[np.uint32]]:
    """The tokens of each document, uint32 [L], as `encode_document` gives them.

    Texts are encoded together, which is faster. Raises ValueError for the first document that
    cannot be rendered.
    """
    texts = [one.content for one in documents if isinstance(one.content, str)]
    if len(texts) < len(documents) or not _is_plain(tokenizer):
        return [encode_document(one.content, tokenizer, place=one.place) for one in documents]
    # This call sets the options below: no truncation, no padding, control tokens as words.
    tokenizer("", add_special_tokens=False, split_special_tokens=True)
    end, found = tokenizer.eos_token_id, []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        # The places of tokens in the text are not needed, and would take a fifth of the time.
        for encoding in tokenizer.backend_tokenizer.encode_batch_fast(
            texts[first : first + TEXTS_AT_ONCE], add_special_tokens=False
        ):
            ids = array("I", encoding.ids)
            ids.append(end)
            found.append(np.frombuffer(ids, dtype=np.uint32))
    return found


def _is_plain(tokenizer: Any) -> bool:
    """Whether a text's tokens are those of what lies below: its kind adds nothing of its own."""
    from transformers import PreTrainedTokenizerFast

    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name, None)
        for name in ("__call__", "_encode_plus")
    )


def write_shards(
    out_dir: Path,
    documents: Iterable[NDArray[np.uint32]],
    *,
    shard_tokens: int,
    source: dict[str, Any],
) -> dict[str, Any]:
    """The index of documents, uint32 [L] each, which are written here as shards.

    A shard has about `shard_tokens` tokens. `source` is copied into the index. Raises ValueError
    when there is no target token at all.
    """
    blocks = blocks_of(documents, shard_tokens)
    shards = [write_shard(out_dir, number, block) for number, block in enumerate(blocks)]
    return write_index(out_dir, shards, source=source)


def write_shard(
    directory: Path, number: int, block: Sequence[NDArray[np.uint32]]
) -> dict[str, Any]:
    """The entry in the index of one shard, which is written here."""
    path = directory / f"tokens-{number:05d}.bin"
    digest = hashlib.sha256()
    starts: list[int] = []
    num_tokens = num_targets = num_first_targets = 0
    with path.open("wb") as file:
        # One by one: joined first, a shard would be in memory twice.
        for document in block:
            # A document without tokens begins nowhere.
            if not len(document):
                continue
            written = document.astype("<u4", copy=False).tobytes()
            file.write(written)
            digest.update(written)
            starts.append(num_tokens)
            num_tokens += len(document)
            num_targets += int((document < NO_TARGET).sum())
            num_first_targets += int(document[0] < NO_TARGET)
    starts_path = directory / f"documents-{number:05d}.bin"
    starts_path.write_bytes(np.asarray(starts, dtype="<u8").tobytes())
    return {
        "file": path.name,
        "tokens": num_tokens,
        "sha256": digest.hexdigest(),
        "documents_file": starts_path.name,
        "documents_sha256": sha256_file(starts_path),
        "documents": len(block),
        "targets": num_targets,
        "first_targets": num_first_targets,
    }


def write_index(
    out_dir: Path, shards: list[dict[str, Any]], *, source: dict[str, Any], **facts: Any
) -> dict[str, Any]:
    """The index of shards that lie in `out_dir`, which is written here with `facts`.

    Raises ValueError when there is no target token at all.
    """

    def total(name: str) -> int:
        return sum(shard[name] for shard in shards)

    if total("targets") == 0:
        raise ValueError(
            f"data.source.path={source.get('path')}: there is no text to train on in "
            f"{total('documents')} documents; check the file, the names of its fields, and "
            "data.num_documents"
        )
    index = {
        "schema": SCHEMA,
        "num_documents": total("documents"),
        "num_tokens": total("tokens"),
        "num_targets": total("targets"),
        "num_first_targets": total("first_targets"),
        "source": source,
        "shards": shards,
        **facts,
    }
    write_json(out_dir / INDEX_NAME, index)
    return index


def keep_shard(
    kept_dir: Path, number: int, block: Sequence[NDArray[np.uint32]], progress: dict[str, Any]
) -> dict[str, Any]:
    """The entry in the index of one shard that survives a kill. It is written with `progress`.

    The shard is filled in a private folder and then renamed: a shard that exists is whole.
    """
    target = kept_dir / f"{SHARD_PREFIX}{number:05d}"
    work_dir = target.with_name(f"{target.name}.writing-{uuid.uuid4().hex[:8]}")
    work_dir.mkdir(parents=True)
    shard = write_shard(work_dir, number, block)
    write_json(work_dir / PROGRESS_NAME, {"schema": SCHEMA, "shard": shard, "progress": progress})
    work_dir.rename(target)
    return shard


def kept_shards(kept_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Entries of the first kept shards without damage, and the progress after the last of them.

    Shards after a missing or damaged one are removed: they will be written again.
    """
    shards: list[dict[str, Any]] = []
    progress = None
    while (directory := kept_dir / f"{SHARD_PREFIX}{len(shards):05d}").is_dir():
        kept = read_json(directory / PROGRESS_NAME)
        if _harm(directory, kept["shard"]):
            break
        shards.append(kept["shard"])
        progress = kept["progress"]
    whole = {f"{SHARD_PREFIX}{number:05d}" for number in range(len(shards))}
    for directory in kept_dir.glob(f"{SHARD_PREFIX}*"):
        if directory.name not in whole:
            shutil.rmtree(directory)
    return shards, progress


def move_shards(kept_dir: Path, out_dir: Path, shards: Iterable[dict[str, Any]]) -> None:
    """Move the files of kept shards into the artifact."""
    for number, shard in enumerate(shards):
        for name in ("file", "documents_file"):
            path = kept_dir / f"{SHARD_PREFIX}{number:05d}" / shard[name]
            path.rename(out_dir / path.name)


def blocks_of(
    documents: Iterable[NDArray[np.uint32]], shard_tokens: int
) -> Iterator[list[NDArray[np.uint32]]]:
    """Documents in groups of about `shard_tokens` tokens.

    Each is read only when its group is due.
    """
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
            path, starts_path = _verified(directory, shard)
            self._maps.append(np.memmap(path, dtype="<u4", mode="r"))
            begins.append(np.fromfile(starts_path, dtype="<u8").astype(np.int64))
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._maps)])
        self._documents = np.concatenate(
            [start + begin for start, begin in zip(self._starts[:-1], begins, strict=True)]
        )

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return int(self._starts[-1])

    @property
    def num_targets(self) -> int:
        """Number of tokens that are targets."""
        return int(self.index["num_targets"])

    @property
    def num_first_targets(self) -> int:
        """Number of targets that are first tokens of documents, with nothing before them."""
        return int(self.index["num_first_targets"])

    def starts_between(self, start: int, stop: int) -> NDArray[np.int64]:
        """Places, int64 [P], from `start` to before `stop` where documents begin, ascending."""
        low, high = np.searchsorted(self._documents, [start, stop])
        return self._documents[low:high]

    def read(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Tokens, uint32 [L], from `start` to before `stop`, with the NO_TARGET bits."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        parts = [
            self._maps[i][max(0, start - self._starts[i]) : stop - self._starts[i]]
            for i in range(first, last)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _verified(directory: Path, shard: dict[str, Any]) -> tuple[Path, Path]:
    """The files of a shard whose checksums are the index's; ValueError names one that is harmed."""
    if harm := _harm(directory, shard):
        raise ValueError(f"shards: {harm}; delete {directory} and run again")
    return directory / shard["file"], directory / shard["documents_file"]


def _harm(directory: Path, shard: dict[str, Any]) -> str | None:
    """What is wrong with the files of a shard, in words."""
    for name, expected in (("file", "sha256"), ("documents_file", "documents_sha256")):
        path = directory / shard[name]
        found = sha256_file(path) if path.is_file() else "no file"
        if found != shard[expected]:
            return f"{path} has sha256 {found[:12]}, but the index says {shard[expected][:12]}"
    return None
