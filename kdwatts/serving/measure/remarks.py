"""What a reader must know of the figures of a load, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from kdwatts.records.serving_record import ServingPoint
from kdwatts.serving.client.outcomes import FAILURES
from kdwatts.serving.measure.latencies import P99_REQUESTS

NO_SLICE = "The meter made no slice while requests were sent, so there is no figure."

NEARLY = 0.95
"""Of the time needed: the latencies that it is computed from still change in the last seconds."""


def restarted(counter: str) -> str:
    """Why a window is refused whose engine counted backwards."""
    return (
        f"The engine's counter {counter} fell: the server started anew during the window, so there "
        "is no figure."
    )


def nothing_ended(duration_s: float, failures: Mapping[str, int]) -> str:
    """Why there is no figure, with the kinds of failure."""
    if not failures:
        return f"No request ended in the {duration_s:.3g} s of the window, so there is no figure."
    return (
        f"No request ended well in the {duration_s:.3g} s of the window, so there is no figure: "
        f"{_kinds(failures)}."
    )


def client_bound(lag_p99_s: float | None, still_s: float) -> str:
    """What our client did wrong."""
    if still_s > 0:
        return (
            f"Our client stood still for {still_s:.3g} s of the window: the figures are not those "
            "of the server alone."
        )
    return (
        f"1 % of the requests were sent over {1000 * (lag_p99_s or 0.0):.0f} ms late: our client "
        "was too slow for this load."
    )


def of(
    point: ServingPoint,
    *,
    verdict: str,
    is_steady: bool,
    is_replay: bool,
    needed_s: float,
    guessed_prompts: int,
    wrong_usage: bool,
    has_slo: bool,
    why_no_joules: str | None = None,
) -> list[str]:
    """The sentences about a load that has figures."""
    window_s = point.duration_s or 0.0
    sentences = []
    if not is_steady and is_replay:
        sentences.append(
            "The replay is shorter than five median latencies: the figures are of its second half."
        )
    elif not is_steady:
        sentences.append(
            "The load did not become steady: the figures are of the second half of its time."
        )
    if verdict == "saturated":
        sentences.append(
            "Requests came faster than they were answered: latencies grow with the time measured."
        )
    if verdict == "unsteady" and is_steady and window_s >= NEARLY * needed_s:
        sentences.append("Tokens a second or watts changed during the window.")
    if window_s < NEARLY * needed_s:
        more = "replay more of the log" if is_replay else "raise max_window_s"
        sentences.append(
            f"The window has {window_s:.3g} s, and {needed_s:.3g} s are needed: {more}."
        )
    if point.completed < P99_REQUESTS:
        sentences.append(
            f"p99 has no upper bound: {point.completed} of {P99_REQUESTS} needed requests ended."
        )
    elif point.ttft_s.p99.high is None and point.ttft_s.p99.value is not None:
        sentences.append(
            f"p99 has no upper bound: {point.completed} requests of one queue are so alike that "
            f"they count as fewer than {P99_REQUESTS}."
        )
    if point.failed:
        sentences.append(
            f"{point.failed} of {point.completed + point.failed} requests failed: "
            f"{_kinds(point.failures)}. Their joules count, their tokens do not."
        )
    if has_slo and not point.goodput_per_s.value:
        sentences.append("No request kept the SLO.")
    if point.energy_quality == "missing":
        why = f" ({why_no_joules})" if why_no_joules else ""
        sentences.append(
            f"Joules were not measured in a part of the window, so there are none{why}."
        )
    elif point.j_per_token.random_sd is None:
        sentences.append("The window has one batch, so figures have no interval.")
    if guessed_prompts:
        sentences.append(
            f"{guessed_prompts} requests were under way at the end: their prompts count with the "
            "mean length of the others."
        )
    if wrong_usage:
        percent = 100 * (point.usage_error or 0.0)
        sentences.append(
            f"Tokens of the answers are {percent:+.2g} % off the engine's own counter, more than "
            "0.1 %."
        )
    return sentences


def _kinds(failures: Mapping[str, int]) -> str:
    return "; ".join(f"{number} {FAILURES.get(kind, kind)}" for kind, number in failures.items())
