"""Logs of Mooncake: milliseconds, lengths, and the blocks that prompts share.

Each line is a JSON object with timestamp, input_length, output_length and hash_ids
(github.com/kvcache-ai/Mooncake). A hash stands for 512 tokens and all that came before them; the
last block of a prompt may be shorter.
"""

from __future__ import annotations

from typing import Any

from kdwatts.traffic.log_rows import BadRow, number_in, tokens_in
from kdwatts.traffic.logged_request import LoggedRequest

KEYS = ("timestamp", "input_length", "output_length")
BLOCK_TOKENS = 512


def mooncake_request(row: dict[str, Any]) -> LoggedRequest | None:
    """The request of a line's object; None for one without tokens. Raises BadRow."""
    t_s = number_in(row.get(KEYS[0]), KEYS[0]) / 1000
    prompt_tokens, output_tokens = (tokens_in(row.get(key), key) for key in KEYS[1:])
    blocks = block_names(row.get("hash_ids"), "hash_ids")
    if not prompt_tokens or not output_tokens:
        return None
    return LoggedRequest(
        t_s, prompt_tokens, output_tokens, prefix_blocks=blocks, block_tokens=BLOCK_TOKENS
    )


def block_names(value: Any, name: str) -> tuple[int, ...]:
    """Names of blocks, whole numbers; none where the log has none. Raises BadRow."""
    if value is None:
        return ()
    if not isinstance(value, list) or any(type(one) is not int for one in value):
        raise BadRow(f"has no list of whole numbers in {name!r}; repair or delete it")
    return tuple(value)
