"""Documents of a text source, one by one: plain text or conversations, local or from a hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kdwatts.data import hub
from kdwatts.data.rows import Row, local_files, read_rows
from kdwatts.schema import TextSource

Turn = dict[str, str]
"""One turn of a conversation: role and content."""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Names that data give to who speaks, to those that chat templates know."""

ID_FIELD = "id"
"""Field by which a row's document is known, where it has one."""


@dataclass(frozen=True)
class Document:
    """One document of a source."""

    content: str | list[Turn]
    """A string, or the turns of a conversation."""
    own_id: str | None
    """The id that its row has, in characters."""
    place: str = "data"
    """Where its row stands, for errors: `file:row`."""

    @property
    def id(self) -> str:
        """What it is known by wherever it stands: its own id, else the hash of its content."""
        return self.own_id or self.content_hash

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(json.dumps(self.content, ensure_ascii=False).encode()).hexdigest()

    @property
    def pieces(self) -> list[str]:
        """Its words, without a chat template's: a text, or each turn of a conversation."""
        if isinstance(self.content, str):
            return [self.content]
        return [turn["content"] for turn in self.content]

    @property
    def is_blank(self) -> bool:
        """Whether it has no words, so that it is no document."""
        return not any(piece.strip() for piece in self.pieces)


def read_documents(source: TextSource, commit: str | None = None) -> Iterator[Document]:
    """The documents of a source in its order, of its first `num_rows` rows if it has such a limit.

    One of a hub is read at `commit`; local files have none. Raises ValueError, with file and row,
    for a row that is not what the source's fields say.
    """
    files = local_files(source.path)
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
    if source.messages_field:
        return _turns(row, source.messages_field)
    if source.prompt_field and source.response_field:
        return [
            {"role": "user", "content": _prompt(row, source)},
            {"role": "assistant", "content": _text(row, source.response_field)},
        ]
    return _text(row, source.text_field or "text")


def _prompt(row: Row, source: TextSource) -> str:
    prompt = _text(row, source.prompt_field or "")
    if not source.context_field or not _field(row, source.context_field):
        return prompt
    return f"{prompt}\n\n{_text(row, source.context_field)}"


def _field(row: Row, name: str) -> Any:
    place, fields = row
    if name not in fields:
        raise ValueError(
            f"{place} has no field {name!r}, its rows have {', '.join(sorted(fields))}; "
            "set data.source.text_field or messages_field"
        )
    return fields[name]


def _text(row: Row, name: str) -> str:
    return _checked(_field(row, name), f"field {name!r}", row[0])


def _checked(value: Any, what: str, place: str) -> str:
    """`value`, which is text that a tokenizer can read."""
    if not isinstance(value, str):
        raise ValueError(
            f"{place}: {what} holds {value!r:.40}, not text; "
            "name another field or leave such rows out"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {what} holds half a character, {value[error.start]!r}; mend the row"
        ) from None
    return value


def _turns(row: Row, name: str) -> list[Turn]:
    place, turns = row[0], _field(row, name)
    if not isinstance(turns, list):
        raise ValueError(
            f"{place}: field {name!r} holds {turns!r:.40}, not a list of turns; "
            "name another field or leave such rows out"
        )
    return [_turn(turn, f"turn {n} of {name!r}", place) for n, turn in enumerate(turns, start=1)]


def _turn(turn: Any, what: str, place: str) -> Turn:
    """A turn as role and content, from that form or from ShareGPT's `from` and `value`."""
    found = turn if isinstance(turn, dict) else {}
    role, content = ("role", "content") if "role" in found else ("from", "value")
    if not {role, content} <= found.keys():
        raise ValueError(
            f"{place}: {what} is {turn!r:.60}, without role and content (or from and value); "
            "mend the row or leave it out"
        )
    known = ROLES.get(found[role]) if isinstance(found[role], str) else None
    if known is None:
        raise ValueError(
            f"{place}: {what} has the role {found[role]!r:.40}, known are {', '.join(ROLES)}; "
            "mend the row or leave it out"
        )
    return {"role": known, "content": _checked(found[content], what, place)}
