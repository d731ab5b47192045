"""Documents of a text source, one by one: plain text or conversations, local or from a hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kdwatts.config.data import TextSource
from kdwatts.data import hub
from kdwatts.data.local_rows import Row, local_files, read_rows
from kdwatts.data.turns import Turn, check_beside, checked_text, read_turns

ID_FIELD = "id"
"""The field with the id of a row's document, where it has one."""


@dataclass(frozen=True)
class Document:
    """One document of a source."""

    content: str | list[Turn]
    """A string, or the turns of a conversation."""
    own_id: str | None
    """The id that its row has, as text."""
    place: str = "data"
    """Where its row stands, for errors: `file:row`."""

    @property
    def id(self) -> str:
        """The document's name wherever it stands: its own id, or else the hash of its content."""
        return self.own_id or self.content_hash

    @property
    def content_hash(self) -> str:
        """The hash of the document's content."""
        return hashlib.sha256(json.dumps(self.content, ensure_ascii=False).encode()).hexdigest()

    @property
    def pieces(self) -> list[str]:
        """The document's words without those of a chat template: one text, or each turn."""
        if isinstance(self.content, str):
            return [self.content]
        return [turn["content"] for turn in self.content]

    @property
    def unfit(self) -> str | None:
        """Why a student cannot learn from this document, in the index's words. None where it can.

        An answer without words would teach the student to say nothing.
        """
        if not any(piece.strip() for piece in self.pieces):
            return "empty"
        turns = self.content if isinstance(self.content, list) else []
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        return None if all(answer.strip() for answer in answers) else "blank_answer"

    @property
    def is_blank(self) -> bool:
        """Whether a student cannot learn from this document."""
        return self.unfit is not None


def source_files(source: TextSource) -> list[Path] | None:
    """The local files of a source. None for a source of a hub.

    Raises ValueError for a local source with settings that only a hub's source has.
    """
    files = local_files(source.path)
    if files is not None:
        for name in ("name", "split", "revision"):
            if (value := getattr(source, name)) is not None:
                raise ValueError(
                    f"data.source.{name}={value} is for a data set on a hub, but "
                    f"data.source.path={source.path} is local; set data.source.{name}=null, and "
                    "let the path name the files to read"
                )
    return files


def read_documents(source: TextSource, commit: str | None = None) -> Iterator[Document]:
    """The documents of a source in its order, up to `num_rows` rows if the source has this limit.

    A source of a hub is read at `commit`. Local files have no commit.

    Raises ValueError, with file and row, for a row without the fields that the source names.
    """
    files = source_files(source)
    rows = read_rows(files) if files else _hub_rows(source, commit)
    return (_document(row, source) for row in islice(rows, source.num_rows))


def _hub_rows(source: TextSource, commit: str | None) -> Iterator[Row]:
    assert commit, "a source of a hub is read at a commit"
    for number, fields in enumerate(hub.rows(source, commit), start=1):
        yield f"{source.path}:{number}", fields


def _document(row: Row, source: TextSource) -> Document:
    place, fields = row
    own_id = fields.get(ID_FIELD)
    content = _content(row, source)
    return Document(content, None if own_id in (None, "") else str(own_id), place)


def _content(row: Row, source: TextSource) -> str | list[Turn]:
    place, fields = row
    if source.messages_field:
        found = _field(row, source, "messages_field")
        turns = read_turns(found, source.messages_field, place, source.path)
    elif source.prompt_field:
        turns = [
            {"role": "user", "content": _prompt(row, source)},
            {"role": "assistant", "content": _text(row, source, "response_field")},
        ]
    else:
        return _text(row, source, "text_field")
    named = (source.messages_field, source.prompt_field, source.context_field)
    check_beside(fields, turns, place, source.path, named=named)
    return turns


def _prompt(row: Row, source: TextSource) -> str:
    prompt = _text(row, source, "prompt_field")
    if not source.context_field or not _field(row, source, "context_field"):
        return prompt
    return f"{prompt}\n\n{_text(row, source, 'context_field')}"


def _field(row: Row, source: TextSource, setting: str) -> Any:
    """What a row has in the field that a setting of its source names."""
    place, fields = row
    name = getattr(source, setting)
    if name not in fields:
        talks = (
            ", or set it to null for conversations and give their messages_field or prompt_field"
        )
        raise ValueError(
            f"{place} has no field {name!r}; its fields are {', '.join(sorted(fields))}; set "
            f"data.source.{setting} to one of them{talks if setting == 'text_field' else ''}"
        )
    return fields[name]


def _text(row: Row, source: TextSource, setting: str) -> str:
    field = f"field {getattr(source, setting)!r}"
    return checked_text(_field(row, source, setting), field, row[0])
