"""Logs in our own format: JSONL, a request a line, with its text or with lengths alone."""

from __future__ import annotations

from typing import Any

from kdwatts.traffic.log_rows import BadRow, number_in, tokens_in
from kdwatts.traffic.logged_request import LoggedRequest
from kdwatts.traffic.mooncake_log import block_names

LENGTHS = ("forced", "natural")
CONTENTS = ("prompt", "messages", "prompt_tokens")
DEFAULT_BLOCK_TOKENS = 512


def kdwatts_request(row: dict[str, Any]) -> LoggedRequest | None:
    """The request of a line's object; None for one without tokens or text. Raises BadRow."""
    t_s = number_in(row.get("t_s"), "t_s")
    prompt, messages = row.get("prompt"), row.get("messages")
    prompt_tokens = _optional_tokens(row, "prompt_tokens")
    if prompt is not None and not isinstance(prompt, str):
        raise BadRow("has a 'prompt' that is no text; repair or delete it")
    if messages is not None and not _are_messages(messages):
        raise BadRow("has 'messages' that are no list of objects with a role; repair or delete it")
    if prompt is not None and messages is not None:
        raise BadRow("has both 'prompt' and 'messages'; keep one of them")
    if prompt is None and messages is None and prompt_tokens is None:
        raise BadRow(f"has none of {', '.join(CONTENTS)}; give one of them")
    output_tokens = _optional_tokens(row, "output_tokens")
    max_tokens = _optional_tokens(row, "max_tokens")
    length = row.get("length")
    if length not in (None, *LENGTHS):
        raise BadRow(f"has another 'length' than {' or '.join(LENGTHS)}; give one of them or none")
    block_tokens = _optional_tokens(row, "block_tokens")
    if block_tokens == 0:
        raise BadRow("has 0 in 'block_tokens'; give at least 1")
    request = LoggedRequest(
        t_s,
        prompt_tokens,
        output_tokens,
        _session(row.get("session")),
        prompt,
        messages,
        block_names(row.get("prefix_blocks"), "prefix_blocks"),
        block_tokens or DEFAULT_BLOCK_TOKENS,
        max_tokens,
        length,
    )
    is_nothing = prompt == "" or messages == []
    return None if is_nothing or 0 in (prompt_tokens, output_tokens, max_tokens) else request


def _optional_tokens(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    return None if value is None else tokens_in(value, name)


def _session(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) or type(value) is int:
        return str(value)
    raise BadRow("has a 'session' that is no text and no whole number; repair or delete it")


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in value
    )
