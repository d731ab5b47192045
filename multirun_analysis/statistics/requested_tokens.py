"""Tokens of a request, as measured, and whether they are those of a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multirun_analysis.statistics.measured_replicas import USABLE
from multirun_analysis.statistics.operating_point import OperatingPoint
from multirun_analysis.values.rows import Row

ALIKE = 0.10
"""Means of tokens that differ by no more than this share count as those of the log: our judgement.
"""


@dataclass(frozen=True)
class RequestedTokens:
    """Mean tokens of one request. None where no request ended."""

    prompt: float | None
    output: float | None
    """Tokens written. Where lengths are natural, a student may write longer than its teacher."""
    is_forced: bool
    """Whether each answer had the length that was asked for, whatever the model."""


def requested_tokens(points: Sequence[Row], first: Row) -> RequestedTokens:
    """The means over the loads of a curve; those asked for where each request had these lengths.

    Loads whose queue grew are left out where others are: many of their requests begin in the window
    and do not end in it.
    """
    is_forced = first["workload_length"] != "natural"
    points = [point for point in points if point["verdict"] in USABLE] or points
    completed = sum(point["completed"] or 0 for point in points)
    if not completed:
        return RequestedTokens(None, None, is_forced)
    read, written = (
        sum(point[name] or 0 for point in points) / completed
        for name in ("prompt_tokens", "output_tokens")
    )
    if first["load"] != "replay" and is_forced:
        read, written = (
            _asked(first, "prompt_tokens", read),
            _asked(first, "output_tokens", written),
        )
    return RequestedTokens(read, written, is_forced)


def _asked(first: Row, name: str, measured: float) -> float:
    """One length for all requests has no error; what a window cuts off has."""
    one_length = first[f"workload_{name}_p95"] is None
    asked = first[f"workload_{name}"]
    if asked is None or not one_length or abs(measured - asked) > ALIKE * asked:
        return measured
    return float(asked)


def differs_from_the_log(tokens: RequestedTokens, first: Row, point: OperatingPoint) -> list[str]:
    """Why figures of these requests are not those of the log's, as ends of sentences.

    Requests of this very log are its own, and how much a model writes of its own need not be as
    much as the log says. `first` is a row of the table `serving`.
    """
    if point.log is not None and first["workload_replay_sha256"] == point.log.sha256:
        return []
    asked = [("read", tokens.prompt, point.prompt_tokens)]
    if tokens.is_forced:
        asked.append(("written", tokens.output, point.output_tokens))
    found = []
    for what, measured, logged in asked:
        if measured is None or point.log is None:
            continue
        said = "does not say how many it has" if logged is None else f"has {logged:.3g}"
        if logged is None or abs(measured - logged) > ALIKE * logged:
            found.append(
                f"its servers were measured with {measured:.3g} tokens {what} a request, and the "
                f"log {said}; measure with the log: eval.serving.replay.log=FILE"
            )
    return found
