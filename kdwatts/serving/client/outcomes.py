"""What became of requests, as the client process writes it: one line of JSON each."""

from __future__ import annotations

from dataclasses import dataclass, field

UNFINISHED = "unfinished"
"""Not a failure: the measurement ended while the request was under way."""

FAILURES = {
    "refused": "the server refused the request (HTTP 4xx other than 429)",
    "too_many": "the server answered 429, too many requests",
    "server_error": "the server answered HTTP 5xx",
    "error_in_stream": "the server sent an error after a 200",
    "bad_stream": "the stream was no valid UTF-8, JSON or event stream",
    "no_finish": "the stream ended without a finish reason",
    "bad_usage": "the token counts were missing, null, negative or contradicted each other",
    "connection": "the connection could not be made, or was reset",
    "timeout": "no whole answer came within the time limit",
}
"""Kind of failure, and what it means."""


@dataclass(frozen=True)
class Outcome:
    """One request from its schedule to its end. Times are monotonic seconds of this host."""

    number: int
    scheduled_s: float
    """When it should have been sent: in a closed loop, when the request before it ended."""
    sent_s: float | None
    """When it was sent; None where it was not."""
    ended_s: float
    """When the last byte came, or it failed, or was given up."""
    chunks: list[tuple[float, int]] = field(default_factory=list)
    """Arrival of each chunk with tokens, and how many tokens it held."""
    prompt_tokens: int | None = None
    """As the server's usage says; None where it did not say."""
    output_tokens: int | None = None
    """As the server's usage says: end token and reasoning are in it."""
    finish_reason: str | None = None
    """stop, length or another word of the server's."""
    failure: str | None = None
    """A key of FAILURES, or unfinished; None where it ended well."""
    detail: str | None = None
    """The server's own words about a failure, at most 300 characters, without the prompt."""


@dataclass(frozen=True)
class Second:
    """What the client had seen until one moment; written once a second."""

    time_s: float
    sent: int
    ended: int
    """Requests that ended well."""
    failed: int
    in_flight: int
    output_tokens: int
    """Tokens that arrived until now."""
    prompt_tokens: int
    """Tokens of the prompts whose first chunk arrived until now."""
    client_cpu_s: float
    """CPU time of the client process."""
