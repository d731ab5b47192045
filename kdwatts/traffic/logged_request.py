"""One request of a log, in the fields that all formats of logs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that users once sent. Its text reaches no record, key or message."""

    t_s: float
    """Arrival, seconds after the first request of the log."""
    prompt_tokens: int | None
    """Tokens of the prompt, as the log counts them; None where the log has text alone."""
    output_tokens: int | None
    """Tokens of the answer. None where the log does not say."""
    session: str | None = None
    """Requests of one conversation share it. None: a session of its own."""
    prompt: str | None = None
    """Text of the prompt; None where the log has lengths alone."""
    messages: Sequence[dict[str, Any]] | None = None
    """A conversation in place of a prompt, rendered by the model's chat template."""
    prefix_blocks: tuple[int, ...] = ()
    """Names of the blocks that the prompt begins with: equal names are equal text."""
    block_tokens: int = 512
    """Tokens of one such block."""
    max_tokens: int | None = None
    """Most tokens that the request allowed; None without a limit."""
    length: str | None = None
    """natural or forced; None does as eval.serving.workload.length says."""
