"""From when on a load is steady, and the slices from there to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kdwatts.serving.client.outcomes import UNFINISHED, Outcome, Second
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.slices import Slice, of_the_same_components

MSER_BATCH = 5
"""Values of one batch of MSER-5."""
MEDIAN_LATENCIES = 5
"""An open loop is not steady earlier than this many median latencies after its first request."""


@dataclass(frozen=True)
class Window:
    """Whole slices in a row, from when a load was steady to the end of its measurement."""

    slices: Sequence[Slice]
    """One or more."""
    warm_up_s: float
    """From the first request to the first slice."""
    is_steady: bool
    """Whether the load became steady before its end. Else the slices are those of its second half.
    """

    @property
    def start_s(self) -> float:
        """Monotonic seconds at which the first slice begins."""
        return self.slices[0].start_s

    @property
    def end_s(self) -> float:
        """Monotonic seconds at which the last slice ends."""
        return self.slices[-1].end_s

    @property
    def duration_s(self) -> float:
        """Seconds of all slices together."""
        return self.end_s - self.start_s

    def holds(self, time_s: float) -> bool:
        """Whether a moment lies in the window. Its end does not."""
        return self.start_s <= time_s < self.end_s


def steady_window(
    load: Load, outcomes: Sequence[Outcome], seconds: Sequence[Second], slices: Sequence[Slice]
) -> Window | None:
    """The steady part of a load. None without slices."""
    if not slices:
        return None
    begin_s = min((outcome.scheduled_s for outcome in outcomes), default=slices[0].start_s)
    start_s = steady_start_s(load, outcomes, seconds, slices)
    steady = [] if start_s is None else [one for one in slices if one.start_s >= start_s]
    if steady:
        return Window(of_the_same_components(steady), steady[0].start_s - begin_s, True)
    middle_s = (begin_s + slices[-1].end_s) / 2
    half = [one for one in slices if one.start_s >= middle_s] or list(slices[-1:])
    return Window(of_the_same_components(half), half[0].start_s - begin_s, False)


def steady_start_s(
    load: Load, outcomes: Sequence[Outcome], seconds: Sequence[Second], slices: Sequence[Slice]
) -> float | None:
    """The moment from which requests under way, tokens a second and watts are steady.

    It is the latest of the three cuts of MSER-5 on values one second apart. It comes not before
    each slot of a closed loop ended a request, nor in an open loop before 5 median latencies. None
    where that has not happened yet. A replay is never steady: its window begins after 5 median
    latencies, when the server has work of its log's kind, and nothing else is cut.
    """
    first_s = (_each_slot_ended_s if load.is_closed else _median_latencies_s)(load, outcomes)
    if first_s is None or load.is_replay:
        return first_s
    end_s = slices[-1].end_s
    seen = [second for second in seconds if slices[0].start_s <= second.time_s <= end_s]
    if len(seen) < 2:
        return first_s
    times_s = np.array([second.time_s for second in seen])
    tokens = np.array([second.output_tokens for second in seen], float)
    series: list[tuple[ArrayLike, ArrayLike]] = [
        (times_s, [second.in_flight for second in seen]),
        (times_s[:-1], np.diff(tokens) / np.maximum(np.diff(times_s), 1e-9)),
    ]
    joules = [one.energy.value for one in of_the_same_components(slices)]
    if None not in joules:
        starts_s = np.array([one.start_s for one in slices])
        index = np.searchsorted(starts_s, times_s, side="right") - 1
        watts = np.array(joules, float) / [max(one.duration_s, 1e-9) for one in slices]
        series.append((times_s, watts[np.maximum(index, 0)]))
    cuts_s = [float(np.asarray(when_s)[mser_5(values)]) for when_s, values in series]
    return max(first_s, *cuts_s)


def mser_5(values: ArrayLike) -> int:
    """How many values to leave out at the start, so that the mean of the others is known best.

    Means of 5 values in a row; the cut is where the squared error of the mean of what follows,
    sum (Y - mean)^2 / n^2, is least (White 1997, Simulation 69:323, "An effective truncation
    heuristic for bias reduction in simulation output"). At most half is cut, and two batches stay:
    of a single one the error is not known.
    """
    all_values = np.asarray(values, float)
    number = len(all_values) // MSER_BATCH
    if number < 2:
        return 0
    batches = all_values[: number * MSER_BATCH].reshape(number, MSER_BATCH).mean(axis=1)
    most = min(number // 2, number - 2)
    errors = [float(batches[cut:].var()) / (number - cut) for cut in range(most + 1)]
    return MSER_BATCH * int(np.argmin(errors))


def latency_s(outcome: Outcome) -> float:
    """Seconds from the moment a request was scheduled to its end, be it an answer or a failure."""
    return outcome.ended_s - outcome.scheduled_s


def median_latency_s(outcomes: Sequence[Outcome]) -> float | None:
    """Over the requests that ended. None where none did."""
    ended = [latency_s(outcome) for outcome in outcomes if outcome.failure != UNFINISHED]
    return float(np.median(ended)) if ended else None


def _each_slot_ended_s(load: Load, outcomes: Sequence[Outcome]) -> float | None:
    """The first requests of a closed loop have the numbers 0 to its level less one."""
    slots = int(load.level)
    ended_s = [
        outcome.ended_s
        for outcome in outcomes
        if outcome.number < slots and outcome.failure != UNFINISHED
    ]
    return max(ended_s) if len(ended_s) == slots else None


def _median_latencies_s(load: Load, outcomes: Sequence[Outcome]) -> float | None:
    latency = median_latency_s(outcomes)
    if latency is None:
        return None
    return min(outcome.scheduled_s for outcome in outcomes) + MEDIAN_LATENCIES * latency
