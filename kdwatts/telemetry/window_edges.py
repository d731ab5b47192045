"""The edge of a window: one moment, and what every device had used by then."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kdwatts.telemetry.energy import Tally
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import MAX_DELTA_S

_POLL_S = 0.001
"""Seconds between two looks at a counter."""

_CLOSE_S = 0.01
"""Between looks further apart, this thread may have slept through an update."""

_LOST_S = 1.0
"""A GPU that has failed for longer is not waited for: it may never come back."""


class Edge(NamedTuple):
    """One moment, and what every device that answered had used by then."""

    time_s: float
    """Monotonic seconds of this host."""
    tallies: dict[Probe, Tally]


@dataclass(frozen=True)
class _Update:
    """A tally whose counter was updated at a known moment."""

    time_s: float
    width_s: float
    """Between the looks before and after it; infinite where no update was seen."""
    tally: Tally


def find_edge(probes: Sequence[Probe], lock: threading.Lock) -> Edge:
    """The moment of an edge, and a fresh tally of every device that answers.

    GPU counters are steps. So the next update is waited for, and the edge is halfway between the
    looks before and after it. RAPL and CPU time are read at that moment.
    """
    gpus = [probe for probe in probes if probe.sensor.method == "nvml_counter"]
    _wait_for_answers(gpus, lock)
    answering = [gpu for gpu in gpus if gpu.error is None]
    # First one GPU, then the others: their counters follow it at the same distance at every edge,
    # so that all windows of one GPU are shifted alike and as long as they should be.
    updates = _next_updates(answering[:1], lock) | _next_updates(answering[1:], lock)
    tallies = {gpu: update.tally for gpu, update in updates.items()}
    edge_s = max((update.time_s for update in updates.values()), default=time.monotonic())
    for probe in probes:
        if probe not in gpus and (tally := _look(probe, lock)) is not None:
            tallies[probe] = tally
    return Edge(edge_s, tallies)


def _look(probe: Probe, lock: threading.Lock) -> Tally | None:
    with lock:
        return None if probe.update(edge=True) is None else probe.tally


def _wait_for_answers(gpus: Sequence[Probe], lock: threading.Lock) -> None:
    """Let a moment's failure pass, so that no GPU misses the edge for it."""
    deadline_s = time.monotonic() + 2 * MAX_DELTA_S
    silent = [gpu for gpu in gpus if _look(gpu, lock) is None and not _is_lost(gpu)]
    while silent and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
        silent = [gpu for gpu in silent if _look(gpu, lock) is None]


def _is_lost(gpu: Probe) -> bool:
    last = gpu.tally.counter
    return last is None or time.monotonic() - last.time_s > _LOST_S


def _next_updates(gpus: Sequence[Probe], lock: threading.Lock) -> dict[Probe, _Update]:
    """The next update of each GPU's counter that was seen sharply, else the sharpest in time."""
    deadline_s = time.monotonic() + 2 * MAX_DELTA_S
    waiting = list(gpus)
    looks: dict[Probe, Tally] = {}
    updates: dict[Probe, _Update] = {}
    closest_s = math.inf
    while waiting:
        is_late = time.monotonic() > deadline_s
        for gpu in list(waiting):
            before, after = looks.get(gpu), _look(gpu, lock)
            if after is not None:
                looks[gpu] = after
                update, apart_s = _update_between(before, after)
                updates[gpu] = min(update, updates.get(gpu, update), key=lambda one: one.width_s)
                closest_s = min(closest_s, apart_s)
            # Many GPUs, or slow ones, are never looked at more often than their queries allow.
            if is_late or (gpu in updates and updates[gpu].width_s < max(_CLOSE_S, 2 * closest_s)):
                waiting.remove(gpu)
        if waiting:
            time.sleep(_POLL_S)
    return updates


def _update_between(before: Tally | None, after: Tally) -> tuple[_Update, float]:
    """The update between two looks and the time between them; without one, the second look."""
    assert after.counter is not None, "GPUs with a counter are waited for"
    new, old = after.counter, before and before.counter
    if old is None:
        return _Update(new.time_s, math.inf, after), math.inf
    apart_s = new.time_s - old.time_s
    if old.energy_counter_j == new.energy_counter_j:
        return _Update(new.time_s, math.inf, after), apart_s
    return _Update((old.time_s + new.time_s) / 2, apart_s, after), apart_s
