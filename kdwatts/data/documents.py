"""Documents of a text source, one by one: plain text or conversations, local or from a hub."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kdwatts.data import hub
from kdwatts.paths import resolve_dir
from kdwatts.schema import TextSource

LOCAL_SUFFIXES = (".txt", ".txt.xz", ".jsonl", ".jsonl.xz", ".parquet")

_COMMIT = re.compile(r"[0-9a-f]{40}")

Turn = dict[str, str]
"""One turn of a conversation: role and content."""


ID_FIELD = "id"
"""Field by which a row's document is known, where it has one."""


@dataclass(frozen=True)
class Document:
    """One document of a source."""

    content: str | list[Turn]
    """A string, or the turns of a conversation."""
    own_id: str | None
    """The id that its row has, in characters."""

    @property
    def id(self) -> str:
        """What it is known by wherever it stands: its own id, else the hash of its content."""
        return self.own_id or self.content_hash

    @property
    def content_hash(self) -> str:
        text = json.dumps(self.content, ensure_ascii=False)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    @property
    def pieces(self) -> list[str]:
        """Its words, without a chat template's: a text, or each turn of a conversation."""
        if isinstance(self.content, str):
            return [self.content]
        return [turn["content"] or "" for turn in self.content]


def read_documents(source: TextSource) -> Iterator[Document]:
    """The documents of a source in its order, of its first `num_rows` rows if it has such a limit.

    Raises ValueError for a file of an unknown kind and for rows without the named field.
    """
    path = local_path(source)
    rows = _local_rows(path) if path else _hub_rows(source)
    return (_document(row, source) for row in islice(rows, source.num_rows))


def local_path(source: TextSource) -> Path | None:
    """The file a source names, or None for a hub id.

    Raises ValueError when it looks like a file of a known kind and is not there.
    """
    path = resolve_dir(source.path)
    if path.is_file():
        return path
    if source.path.startswith(("tiny:", "/", ".", "~", "$")) or source.path.endswith(
        LOCAL_SUFFIXES
    ):
        raise ValueError(f"data.source.path={source.path}: there is no such file; check the path")
    return None


def is_pinned(source: TextSource) -> bool:
    """Whether it reads the same in every attempt: a file of this disk, or a commit of a hub."""
    return local_path(source) is not None or _COMMIT.fullmatch(source.revision or "") is not None


def _local_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.name.endswith((".txt", ".txt.xz")):
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            yield {"text": file.read()}
    elif path.name.endswith((".jsonl", ".jsonl.xz")):
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(
                        f"{path}:{number}: not JSON ({error}); mend the line"
                    ) from None
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{path}:{number}: holds {type(row).__name__}, not an object; mend the line"
                    )
                yield row
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    else:
        raise ValueError(
            f"data.source.path={path}: unknown kind of file; "
            f"give one of {', '.join(LOCAL_SUFFIXES)}"
        )


def _hub_rows(source: TextSource) -> Iterator[dict[str, Any]]:
    if hub.is_offline():
        yield from hub.kept_rows(source)
        return
    from datasets import load_dataset

    rows = load_dataset(
        source.path, source.name, split=source.split, revision=source.revision, streaming=True
    )
    yield from rows


def _document(row: dict[str, Any], source: TextSource) -> Document:
    own_id = row.get(ID_FIELD)
    return Document(_content(row, source), None if own_id in (None, "") else str(own_id))


def _content(row: dict[str, Any], source: TextSource) -> str | list[Turn]:
    if source.messages_field:
        return [_turn(turn) for turn in _field(row, source.messages_field, source)]
    if source.prompt_field and source.response_field:
        return [
            {"role": "user", "content": _prompt(row, source)},
            {"role": "assistant", "content": _text(row, source.response_field, source)},
        ]
    return _text(row, source.text_field or "text", source)


def _prompt(row: dict[str, Any], source: TextSource) -> str:
    prompt = _text(row, source.prompt_field or "", source)
    if not source.context_field or not _field(row, source.context_field, source):
        return prompt
    return f"{prompt}\n\n{_text(row, source.context_field, source)}"


def _field(row: dict[str, Any], name: str, source: TextSource) -> Any:
    if name not in row:
        raise ValueError(
            f"data.source.path={source.path} has no field {name!r}, its rows have "
            f"{', '.join(sorted(row))}; set data.source.text_field or messages_field"
        )
    return row[name]


def _text(row: dict[str, Any], name: str, source: TextSource) -> str:
    value = _field(row, name, source)
    if not isinstance(value, str):
        raise ValueError(
            f"data.source.path={source.path}: field {name!r} holds {value!r:.40}, not text; "
            "name another field or leave such rows out"
        )
    return value


def _turn(turn: dict[str, str]) -> Turn:
    """A turn as role and content, from that form or from ShareGPT's `from` and `value`."""
    if "role" in turn:
        return {"role": turn["role"], "content": turn["content"]}
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return {"role": roles.get(turn["from"], turn["from"]), "content": turn["value"]}
