"""A server that is computed: slots, a queue, a power, a counter; its true joules are known.

A request waits for a slot, reads its prompt for `prefill_s`, then writes a token every `gap_s`. The
server draws `idle_w`, and `slot_w` more for each busy slot. Nothing waits for real.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdwatts.config.serving import Slo
from kdwatts.metrics.quantity import Quantity
from kdwatts.records.serving_record import ServingPoint
from kdwatts.serving.client.outcomes import UNFINISHED, Outcome, Second
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.figures import point
from kdwatts.serving.measure.slices import Slice

BEGIN_S = 1000.0
"""The moment of the first request; any clock may show anything."""


@dataclass(frozen=True)
class Server:
    """What is served, and what it draws."""

    slots: int = 4
    prefill_s: float = 0.05
    gap_s: float = 0.01
    prompt_tokens: int = 40
    output_tokens: Callable[[np.random.Generator], int] = lambda _: 20
    idle_w: float = 60.0
    slot_w: float = 25.0
    prefill_j: float = 0.0
    """More joules for each prompt token, drawn when its reading ends."""
    decode_j: float = 0.0
    """More joules for each token, drawn when it is written."""


@dataclass(frozen=True)
class World:
    """What client and meter saw, and what is true."""

    load: Load
    outcomes: list[Outcome]
    seconds: list[Second]
    slices: list[Slice]
    server: Server
    busy: list[tuple[float, float]] = field(repr=False)
    """Start and end of the work on each request."""

    def figures(self, slo: Slo | None = None, **changes: Any) -> ServingPoint:
        """The point that the room makes of it."""
        options = {"seed": 0, "min_window_s": 30.0, "counter_period_s": 0.02} | changes
        seen = (self.load, self.outcomes, self.seconds, self.slices)
        return point(*seen, slo=Slo() if slo is None else slo, **options)

    def true_j(self, found: ServingPoint) -> float:
        """Joules of the point's window: P0 D + e x busy seconds."""
        start_s = min(o.scheduled_s for o in self.outcomes) + (found.warm_up_s or 0.0)
        end_s = start_s + (found.duration_s or 0.0)
        return float(_joules(np.array([end_s]), self)[0] - _joules(np.array([start_s]), self)[0])


def served(
    server: Server,
    load: Load,
    *,
    duration_s: float = 60.0,
    seed: int = 0,
    period_s: float = 0.02,
    slice_s: float = 2.0,
    lag_s: float = 0.0,
) -> World:
    """A load on the server, from its first request to the end of its measurement."""
    random = np.random.default_rng(seed)
    end_s = BEGIN_S + duration_s
    outcomes, busy = [], []
    free_s = [BEGIN_S] * server.slots
    waiting = _schedule(load, random)
    upcoming = [next(waiting) for _ in range(int(load.level) if load.is_closed else 1)]
    heapq.heapify(upcoming)
    while upcoming and (scheduled_s := heapq.heappop(upcoming)) < end_s:
        start_s = max(scheduled_s + lag_s, heapq.heappop(free_s))
        tokens = server.output_tokens(random)
        first_s = start_s + server.prefill_s
        chunks = [(first_s + server.gap_s * number, 1) for number in range(tokens)]
        last_s = chunks[-1][0]
        heapq.heappush(free_s, last_s)
        heapq.heappush(upcoming, last_s if load.is_closed else next(waiting))
        busy.append((start_s, last_s))
        outcomes.append(
            Outcome(
                len(outcomes),
                scheduled_s,
                scheduled_s + lag_s,
                min(last_s, end_s),
                [chunk for chunk in chunks if chunk[0] < end_s],
                server.prompt_tokens if last_s < end_s else None,
                tokens if last_s < end_s else None,
                "length" if last_s < end_s else None,
                None if last_s < end_s else UNFINISHED,
            )
        )
    world = World(load, outcomes, _seconds(outcomes, duration_s), [], server, busy)
    return World(**{**vars(world), "slices": _slices(world, random, end_s, slice_s, period_s)})


def _schedule(load: Load, random: np.random.Generator) -> Iterator[float]:
    time_s = BEGIN_S
    while True:
        yield time_s
        time_s += 0.0 if load.is_closed else random.exponential(1 / load.level)


def _joules(times_s: np.ndarray, world: World) -> np.ndarray:
    """Joules from the start until each moment."""
    server = world.server
    starts_s, ends_s = np.array(world.busy).T
    busy_s = np.sum(np.clip(times_s[:, None], starts_s, ends_s) - starts_s, axis=1)
    joules = server.idle_w * (times_s - BEGIN_S) + server.slot_w * busy_s
    if server.prefill_j or server.decode_j:
        prompts, tokens = _work(times_s, world)
        joules = joules + server.prefill_j * prompts + server.decode_j * tokens
    return joules


def _work(times_s: np.ndarray, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Prompt tokens read and tokens written until each moment, as the engine counts."""
    firsts_s = np.sort([o.chunks[0][0] for o in world.outcomes if o.chunks])
    all_s = np.sort([time_s for o in world.outcomes for time_s, _ in o.chunks])
    prompts = world.server.prompt_tokens * np.searchsorted(firsts_s, times_s, side="right")
    return prompts, np.searchsorted(all_s, times_s, side="right")


def _slices(
    world: World, random: np.random.Generator, end_s: float, slice_s: float, period_s: float
) -> list[Slice]:
    """Slices at any phase, read from a counter that is renewed once a period, at any phase."""
    edges_s = np.arange(BEGIN_S + random.uniform(0, slice_s), end_s, slice_s)
    renewed_s = edges_s - (edges_s - random.uniform(0, period_s)) % period_s
    joules = np.diff(_joules(renewed_s, world))
    prompts, tokens = (np.diff(counts) for counts in _work(edges_s, world))
    slices = []
    for number, energy_j in enumerate(joules.tolist()):
        # Each edge is late by up to a period: the difference of two uniform errors.
        random_sd = energy_j / slice_s * period_s / 6**0.5
        slices.append(
            Slice(
                float(edges_s[number]),
                float(edges_s[number + 1]),
                Quantity(energy_j, random_sd, 0.05 * energy_j, "J"),
                {"gpu": energy_j, "cpu": None},
                1.0,
                0.1,
                {
                    "computed_prompt_tokens": float(prompts[number]),
                    "output_tokens": float(tokens[number]),
                },
            )
        )
    return slices


def _seconds(outcomes: list[Outcome], duration_s: float) -> list[Second]:
    times_s = BEGIN_S + np.arange(1.0, duration_s)
    sent_s = np.sort([o.sent_s for o in outcomes if o.sent_s is not None])
    ended_s = np.sort([o.ended_s for o in outcomes if o.failure != UNFINISHED])
    tokens_s = np.sort([time_s for o in outcomes for time_s, _ in o.chunks])
    firsts_s = np.sort([o.chunks[0][0] for o in outcomes if o.chunks])
    counts = [
        np.searchsorted(moments, times_s, side="right")
        for moments in (sent_s, ended_s, tokens_s, firsts_s)
    ]
    return [
        Second(float(t), int(sent), int(ended), 0, int(sent - ended), int(tokens), int(firsts), 0.1)
        for t, sent, ended, tokens, firsts in zip(times_s, *counts, strict=True)
    ]
