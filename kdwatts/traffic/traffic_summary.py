"""What a log says of its traffic: rates by hour, lengths, bursts. It holds no text."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.metrics.fleet import Stretch

FORMATS = ("auto", "kdwatts", "azure", "burstgpt", "mooncake")
"""How a log can be given; auto knows it by its first line."""


@dataclass(frozen=True)
class TokenLengths:
    """Lengths over the requests that state them."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class TrafficSummary:
    """The traffic of one log."""

    log_format: str
    """kdwatts, azure, burstgpt or mooncake."""
    sha256: str
    """Hash of the file."""
    num_requests: int
    num_left_out: int
    """Rows that are no requests to serve, such as failures that the log marks as such."""
    span_s: float
    """From the first arrival to the last, with one mean gap added."""
    hours: tuple[Stretch, ...]
    """The log in hours from its first request. The last may be shorter; what is left after it and
    lasts less than 300 s belongs to it."""
    peak_rate_per_s: float
    """Greatest mean rate over any `peak_span_s`."""
    peak_span_s: float
    """300 s, or the whole log where it is shorter."""
    dispersion: float | None
    """Variance over mean of the requests in 1 s (Fano 1947), around the mean of each hour: 1 is
    Poisson, more comes in bursts. None for fewer than 30 s."""
    gap_cv: float | None
    """Standard deviation over mean of the gaps between requests, each times the rate of its hour: 1
    is Poisson."""
    prompt_tokens: TokenLengths | None
    """None where the log has text alone."""
    output_tokens: TokenLengths | None
    """None where the log does not say what was answered."""
    num_sessions: int | None
    """None where the log has no sessions."""

    @property
    def rate_per_s(self) -> float:
        """Mean requests a second over the whole log."""
        return self.num_requests / self.span_s
