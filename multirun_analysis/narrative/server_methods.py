"""How servers were measured under load, and what their figures are not, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.pareto import CLASSES, energy_class
from multirun_analysis.statistics.server_words import (
    WITHOUT_IDLE,
    engine_words,
    length_words,
    load_words,
)
from multirun_analysis.statistics.serving_curves import Setup, setups
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, known


def method_words(serving: Sequence[Row], runs: Sequence[Row]) -> str:
    """A few sentences on each setup, from its records; empty where no server was measured."""
    found = setups(serving, runs)
    if not found:
        return ""
    return " ".join([*map(_setup_words, found), apart_from_the_loop(runs)])


def apart_from_the_loop(runs: Sequence[Row]) -> str:
    """What rests on the eager loop and what on these servers; and that engines are not mixed."""
    loop = loop_words(runs)
    rests = (
        f"Eff_overall, and break-even in tokens where no load is asked for, rest on {loop}. With "
        "--rate or --replay, choose and the provider's page rest on these servers. "
    )
    return f"{rests if loop else ''}Figures of two engines are never mixed."


def rests_on_the_loop(runs: Sequence[Row]) -> str:
    """What an answer to tokens a day rests on, and what does better."""
    loop = loop_words(runs) or "what the runs measured, without load"
    return (
        f"This answer rests on {loop}: no load, no latency, no idle time. --rate and --replay "
        "decide by servers that were measured under load."
    )


def _setup_words(setup: Setup) -> str:
    row, rows = setup.first, [point for curve in setup.curves for point in curve.points]
    flags = f"flags {row['flags']}" if row["flags"] else "no flags of ours"
    numbers = row["precision"] or "numbers of an unknown precision"
    numbers += f", quantised to {row['quantization']}" if row["quantization"] else ""
    servers = ", ".join(
        f"{curve.name} {units.count(curve.num_servers, 'measurement')}" for curve in setup.curves
    )
    asked = ", ".join(filter(None, (load_words(setup), length_words(row))))
    return (
        f"{engine_words(row)} ({flags}) served {numbers}: {asked}. {_window_words(rows)}"
        f"Measurements, each of a fresh server: {servers}. {_joules_words(rows)} "
        f"{_client_words(rows)}"
    )


def _window_words(rows: list[Row]) -> str:
    seconds = sorted({row["duration_s"] / row["measurements"] for row in known(rows, "duration_s")})
    if not seconds:
        return ""
    ends = dict.fromkeys(units.significant(end, 2) for end in (seconds[0], seconds[-1]))
    return f"Each load was measured over {' to '.join(ends)} s, after it was steady. "


def _joules_words(rows: list[Row]) -> str:
    scopes = "; ".join(sorted({row["scope"] for row in known(rows, "scope") if row["scope"]}))
    kinds = {energy_class(row["energy_quality"]) for row in rows}
    if kinds == {"missing"}:
        return f"There are no joules: {scopes or 'the records do not say why'}."
    kind = " and ".join(sorted(kinds, key=CLASSES.index))
    idle = {"measured": "Idle power is in them.", "estimated": WITHOUT_IDLE}
    said = idle.get(kind, "Idle power is in them only where a sensor measured it.")
    return (
        f"The joules are {kind}, of: {scopes or 'not stated'}. {said} The work of requests that "
        "failed is in them."
    )


def _client_words(rows: list[Row]) -> str:
    apart = all(row["server_cpu_s"] is not None and row["client_cpu_s"] is not None for row in rows)
    if apart:
        return "The CPU time of server and client is told apart."
    return "The CPU time of server and client is not told apart."
