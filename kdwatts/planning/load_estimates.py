"""One load on one model, and the greatest rate of requests, estimated by the roofline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kdwatts.planning.serving_roofline import (
    Device,
    Pace,
    Range,
    Served,
    Tokens,
    paces,
    room_for,
)


@dataclass(frozen=True)
class Limits:
    """What bounds the number of sequences at once, beside the model."""

    engine_most: int
    """Sequences that the engine takes at once."""
    memory_bytes: float | None = None
    """Memory that the engine fills with weights, keys and values; None where it is not known."""


@dataclass(frozen=True)
class LoadEstimate:
    """What is expected of one load. Each range goes from its least to its greatest figure."""

    subject: str
    is_closed: bool
    """Whether level counts requests at once, and not requests a second."""
    level: float
    keeps_up: tuple[bool, bool]
    """Whether the server answers as many requests as come, at the slow and at the fast end."""
    at_once: Range
    """Mean number of requests that the engine works on."""
    requests_per_s: Range
    output_tokens_per_s: Range
    tpot_s: Range | None
    """Seconds between two tokens of an answer; None for answers of one token."""
    j_per_output_token: Range | None
    """Joules of the device, idle power included; None where its rated power is not known."""


@dataclass(frozen=True)
class RateEstimate:
    """The greatest rate of requests that is expected of one model."""

    subject: str
    most_at_once: int
    is_room: bool
    """Whether room for keys and values bounds the number at once, and not the engine."""
    requests_per_s: Range
    """With most_at_once under way; 0 where not even one has room."""
    within_limits: Range | None = None
    """The same, with as many under way as keep to the limits of time; None without limits. 0 where
    not even one does."""


def most_at_once(model: Served, tokens: Tokens, limits: Limits) -> int:
    """Sequences that engine and memory take at once."""
    if limits.memory_bytes is None:
        return limits.engine_most
    return min(limits.engine_most, room_for(model, tokens, limits.memory_bytes))


def estimate_load(
    model: Served,
    tokens: Tokens,
    device: Device,
    limits: Limits,
    *,
    level: float,
    is_closed: bool,
) -> LoadEstimate:
    """What is expected of `level` requests at once, or of so many requests a second.

    There must be room for one request.
    """
    most = most_at_once(model, tokens, limits)
    assert most >= 1, "room_for says whether one request has room"
    fast, slow = paces(model, tokens, device)
    ends = [_end(pace, most, level=level, is_closed=is_closed) for pace in (slow, fast)]
    (slow_at_once, slow_rate), (fast_at_once, fast_rate) = ends
    j_per_request = [
        pace.request_j(at_once, seldom_per_s=None if is_closed else rate)
        for pace, (at_once, rate) in ((fast, ends[1]), (slow, ends[0]))
    ]
    joules = None
    if j_per_request[0] is not None and j_per_request[1] is not None:
        joules = Range(j_per_request[0] / tokens.output, j_per_request[1] / tokens.output)
    tpot = Range(fast.tpot_s(max(fast_at_once, 1)), slow.tpot_s(max(slow_at_once, 1)))
    return LoadEstimate(
        subject=model.subject,
        is_closed=is_closed,
        level=level,
        keeps_up=(is_closed or slow_rate >= level, is_closed or fast_rate >= level),
        at_once=Range(fast_at_once, slow_at_once),
        requests_per_s=Range(slow_rate, fast_rate),
        output_tokens_per_s=Range(slow_rate * tokens.output, fast_rate * tokens.output),
        tpot_s=tpot if tokens.output > 1 else None,
        j_per_output_token=joules,
    )


def _end(pace: Pace, most: int, *, level: float, is_closed: bool) -> tuple[float, float]:
    """Requests under way and requests a second at one end of the range."""
    at_once = level if is_closed else pace.at_once(level)
    if at_once <= most:
        return at_once, pace.requests_per_s(at_once) if is_closed else level
    return most, pace.requests_per_s(most)


def estimate_rate(
    model: Served,
    tokens: Tokens,
    device: Device,
    limits: Limits,
    *,
    tpot_s: float | None = None,
    answer_s: float | None = None,
) -> RateEstimate:
    """The greatest rate that is expected, also where tokens and answers have limits of time."""
    most = most_at_once(model, tokens, limits)
    fast, slow = paces(model, tokens, device)
    within = None
    if tpot_s is not None or answer_s is not None:
        within = _rates(fast, slow, lambda pace: min(most, pace.most_within(tpot_s, answer_s)))
    return RateEstimate(
        subject=model.subject,
        most_at_once=most,
        is_room=most < limits.engine_most,
        requests_per_s=_rates(fast, slow, lambda pace: most),
        within_limits=within,
    )


def _rates(fast: Pace, slow: Pace, most: Callable[[Pace], float]) -> Range:
    ends = [(pace, int(most(pace))) for pace in (slow, fast)]
    low, high = (pace.requests_per_s(at_once) if at_once >= 1 else 0.0 for pace, at_once in ends)
    return Range(low, high)
