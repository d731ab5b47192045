"""Loads at two periods of the GPU's counter, at several phases of it, with windows of a figure."""

from __future__ import annotations

from collections.abc import Iterator

from tests.serving.known_power import Case

LOADS = {
    "closed": {"concurrency": [4]},
    "poisson": {"rates_per_s": [10.0]},
    "constant": {"rates_per_s": [10.0], "arrivals": "constant"},
}
WINDOW_S = {20: 8.0, 100: 20.0}
"""Period of the counter, in ms, to the shortest window: at least 200 periods."""
PHASES = (0.0, 0.31, 0.77)
"""Of a period, by which the updates of the counter come later than at round times."""


def cases() -> Iterator[Case]:
    """Every load at every period and phase. A closed loop has as many slots as requests at once."""
    for period_ms, window_s in WINDOW_S.items():
        for name, load in LOADS.items():
            for seed, phase in enumerate(PHASES):
                yield Case(
                    f"{name}, {period_ms} ms, phase {phase:g}",
                    load | {"min_window_s": window_s, "max_window_s": 90.0},
                    timetable={} if name == "closed" else {"slots": 64},
                    counter_period_ms=period_ms,
                    phase_ms=phase * period_ms,
                    seed=seed,
                )
