"""Turns of a conversation: who speaks and what they say, in the form in which a row gives them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

Turn = dict[str, str]
"""One turn of a conversation: role and content."""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""The names that data gives to speakers, to those that chat templates know."""

_WEIGHTS = ("weight", "train", "training", "trainable", "loss")
"""Keys by which OpenAI, axolotl and ms-swift say whether an answer is learned: 1 or true says yes.

What others say is never learned, so 0 or false says nothing new there.
"""
_MEANT = (
    *("tool_calls", "function_call", "tool_call_id", "tools", "functions", "name", "refusal"),
    *("reasoning_content", "reasoning", "thinking", "prefix", "masked", "mask", "loss_mask"),
    *("loss_weight", "train_detail"),
    *("image", "images", "audio", "audios", "video", "videos", "file", "files", "attachments"),
)
"""Keys that change what a turn means, or how it is learned. None of them is supported."""
_EMPTY = (None, "", "[]", "{}", [], {})

_TOOLS = ("tools", "functions")
_INSTRUCTIONS = ("system", "system_prompt", "chat_template_kwargs")
"""Columns beside a conversation that others put before it."""


def read_turns(turns: Any, field: str, place: str, path: str) -> list[Turn]:
    """The turns in the field of a row.

    `path` is the source's, for what is logged once about all its rows. Raises ValueError, which
    begins with `place`, for anything that is no list of turns.
    """
    if not isinstance(turns, list):
        raise ValueError(
            f"{place}: field {field!r} holds {turns!r:.40}, which is no list of turns; name "
            "another field, or leave such rows out"
        )
    return [
        _turn(turn, f"turn {number} of {field!r}", place, path)
        for number, turn in enumerate(turns, start=1)
    ]


def _turn(turn: Any, what: str, place: str, path: str) -> Turn:
    """A turn as role and content, from that form or from ShareGPT's `from` and `value`.

    Tables cannot tell null from absent: they fill the keys of the form that a row has not.
    """
    found = turn if isinstance(turn, dict) else {}
    is_shared = found.get("role") is None and found.get("from") is not None
    role, content = ("from", "value") if is_shared or "role" not in found else ("role", "content")
    if not {role, content} <= found.keys():
        raise ValueError(
            f"{place}: {what} is {turn!r:.60}, but a turn needs role and content (or from and "
            "value); repair the row, or leave it out"
        )
    known = ROLES.get(found[role]) if isinstance(found[role], str) else None
    if known is None:
        raise ValueError(
            f"{place}: {what} has the role {found[role]!r:.40}; a role is one of "
            f"{', '.join(ROLES)}; repair the row, or leave it out"
        )
    for key, value in found.items():
        if key in (role, content) or value in _EMPTY:
            continue
        if key in _WEIGHTS:
            is_meant = value != 1 and (known == "assistant" or value != 0)
        elif key in _MEANT:
            is_meant = value is not False
        else:
            _warn_unread(path, f"the key {key} of its turns")
            continue
        if is_meant:
            raise ValueError(
                f"{place}: {what} has {key}={value!r:.40}, which changes its meaning or whether it "
                "is learned, and which is not supported; leave such rows out, or remove this key "
                "if only the words are to be learned"
            )
    return {"role": known, "content": checked_text(found[content], what, place)}


def checked_text(value: Any, what: str, place: str) -> str:
    """`value`, which is text that a tokenizer can read.

    Raises ValueError, which begins with `place`, for anything else.
    """
    if not isinstance(value, str):
        raise ValueError(
            f"{place}: {what} holds {value!r:.40}, which is not text; name another field, or leave "
            "such rows out"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {what} holds half a character, {value[error.start]!r}; repair the row"
        ) from None
    return value


def check_beside(
    fields: dict[str, Any],
    turns: list[Turn],
    place: str,
    path: str,
    *,
    named: Collection[str | None],
) -> None:
    """Raise ValueError for tools that a row offers to its conversation. Log once what is not read.

    An instruction in a column of its own counts as part of the conversation if the conversation has
    one, or if the source names the column.
    """
    for name in _TOOLS:
        if fields.get(name) not in _EMPTY:
            raise ValueError(
                f"{place}: field {name!r} offers tools; the answers rely on them, and tools are "
                "not supported; leave such rows out"
            )
    for name in _INSTRUCTIONS:
        is_said = name in named or any(turn["role"] == "system" for turn in turns)
        if fields.get(name) not in _EMPTY and not is_said:
            _warn_unread(path, f"the field {name} beside conversations")


@cache
def _warn_unread(path: str, what: str) -> None:
    """Say once that rows hold more than what is read of them."""
    log.warning("data.source.path=%s: %s is not read", path, what)
