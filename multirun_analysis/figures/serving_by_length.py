"""Joules per token served by model, phase, batch and length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kdwatts.metrics.pooling import pool, relative_spread
from multirun_analysis.figures.exhibit import NOT_MEASURED, Exhibit
from multirun_analysis.figures.marks import dash, legend_once, log_axis, points, symbol
from multirun_analysis.figures.palette import DASHES, INK, faded, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.figures.serving_by_architecture import (
    PAIR,
    PAIR_COLORS,
    PLACE,
    about_of,
    bits_of,
    limit_words,
    machine_words,
    pair_of,
    served_bars,
    served_model,
    served_words,
)
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.pooled_serving import PHASES, alike
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, to_rows

_LINE = (*PAIR, "subject", "quantization", "batch_size", "new_tokens", "energy_class")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")


def energy_per_token_by_length(inference: pd.DataFrame, runs: pd.DataFrame) -> Exhibit:
    """Joules per token of each phase by what serves alike, subject, batch and lengths.

    Students of one architecture serve alike. So their measurements are averaged over settings and
    seeds, with half of the 95 % interval. A single measurement has the spread of others on its
    machine, or none. A measurement that several runs share counts once. Machines, power limits and
    precisions stay apart, and so do measured and estimated values. Prefill does not depend on what
    is written after it: its `new_tokens` is missing.
    """
    return Exhibit(
        "Energy per token served by our eager loop, by length and batch",
        "Each line is one model at one batch size of our eager loop. A single measurement takes "
        f"the spread of others on its machine, or has no bar. {NOT_MEASURED}",
        _table(inference, runs),
        _draw,
    )


def _table(inference: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    places = (*PAIR, "subject", "quantization", "phase", *PLACE, "energy_class")
    marks = []
    for same in grouped(_readings(inference, runs), "alike").values():
        first, measured = same[0], grouped(same, "measurement")
        groups = sorted({row["group"] for row in same})
        marks.append(
            {name: first[name] for name in places}
            | {"values": [rows[0]["j_per_token"] for rows in measured.values()]}
            | {"num_measurements": len(measured), "groups": ", ".join(groups)}
        )
    machines = grouped(marks, _machine_of)
    for mark in marks:
        spread = relative_spread([other["values"] for other in machines[_machine_of(mark)]])
        mean = pool(mark["values"], borrowed=spread)
        mark["j_per_token"] = mean.value
        mark["half_width_j_per_token"] = mean.random_half_width
    columns = [*places, "j_per_token", "half_width_j_per_token", "num_measurements", "groups"]
    return pd.DataFrame(marks, columns=columns).sort_values(list(places[:-1]), ignore_index=True)


def _readings(inference: pd.DataFrame, runs: pd.DataFrame) -> Iterator[Row]:
    """Each phase of each measurement: what it is of, what it is alike to, its joules a token."""
    by_run = {run["run"]: run for run in to_rows(runs) if run["finished"]}
    about = about_of(runs)
    for row in to_rows(inference):
        run = by_run.get(row["run"])
        if run is None:
            continue
        for phase in PHASES:
            found, subject = _phase(row, phase), row["subject"]
            if found.get("j_per_token") is None:
                continue
            place = {name: row[name] for name in PLACE}
            place["new_tokens"] = row["new_tokens"] if phase == "decode" else None
            kind = energy_class(found.get("quality"))
            yield about(run) | place | {
                "subject": subject,
                "quantization": bits_of(subject, run),
                "phase": phase,
                "energy_class": kind,
                "j_per_token": found["j_per_token"],
                "group": run["group"],
                "alike": (subject, phase, alike(run, subject), *place.values(), kind),
                "measurement": (row.get("measurement"), found["j_per_token"],
                                found.get("duration_s")),
            }  # fmt: skip


def _machine_of(point: Row) -> tuple:
    """What shares its spread: measurements of one phase by one machine."""
    keys = ("gpu", "power_limit_w", "machine", "phase", "energy_class")
    return tuple(point[key] for key in keys)


def _phase(row: Row, phase: str) -> Row:
    """One phase of a record of inference.json, whose mapping a table may have made columns of."""
    if isinstance(row.get(phase), dict):
        return row[phase]
    starts = (f"{phase}.", f"{phase}_")
    return {key[len(phase) + 1 :]: value for key, value in row.items() if key.startswith(starts)}


def _draw(table: pd.DataFrame) -> go.Figure:
    """A line over the prompt's length for each subject, batch and written length.

    Filled marks are students, rings their teachers; a dotted line is estimated. Both axes are
    logarithmic.
    """
    every = to_rows(table)
    batches = sorted({point["batch_size"] for point in every})
    pairs = list(dict.fromkeys(map(pair_of, every)))
    machine = machine_words(every)
    fig = make_subplots(2, 1, vertical_spacing=0.2)
    for row, phase in enumerate(PHASES, start=1):
        marks = [mark for mark in every if mark["phase"] == phase]
        values = [mark["j_per_token"] for mark in marks]
        factor, prefix = units.prefix(max(values, default=1.0), lowest=1e-6)
        lines = grouped(marks, lambda mark: tuple(mark[key] for key in _LINE))
        for key, line in lines.items():
            trace = _trace(line, factor, batches, pairs, machine, several=len(pairs) > 1)
            about = {"model": key[0], "gpu": key[1]}
            fig.add_scatter(**trace, xaxis=f"x{row}", yaxis=f"y{row}", meta=about)
        title = f"{phase.capitalize()}, {prefix}J/token"
        # An interval that reaches zero has no place on a logarithmic axis, and may leave it.
        arms = [min(p["half_width_j_per_token"] or 0.0, 0.7 * p["j_per_token"]) for p in marks]
        ends = [(v + sign * arm) / factor for v, arm in zip(values, arms, strict=True)
                for sign in (-1, 1)]  # fmt: skip
        axis = log_axis(min(ends), max(ends)) if ends else {}
        fig.update_yaxes(title_text=title, row=row, col=1, **axis)
        lengths = sorted({mark["prompt_tokens"] for mark in marks})
        shown = [str(length) for length in lengths]
        fig.update_xaxes(type="log", tickvals=lengths, ticktext=shown, row=row, col=1)
    fig.update_xaxes(title_text="Tokens of the prompt")
    return styled(legend_once(fig), height=590)


def _trace(
    line: list[Row],
    factor: float,
    batches: list[int],
    pairs: list[tuple],
    machine: Callable[[Row], str],
    *,
    several: bool,
) -> dict[str, Any]:
    first = line[0]
    place = pairs.index(pair_of(first)) % len(PAIR_COLORS)
    is_student = first["subject"] == "student"
    color = PAIR_COLORS[place] if is_student or several else INK
    shape = _SYMBOLS[batches.index(first["batch_size"]) % len(_SYMBOLS)]
    of_pair = ""
    if several:
        of_pair = f" of {first['model']} on {first['gpu']}{limit_words(first)}{machine(first)}"
    name = escape(f"{served_model(first)}{of_pair}, batch {first['batch_size']}")
    estimated = "" if first["energy_class"] == "measured" else f", {first['energy_class']}"

    def text(point: Row) -> str:
        written = "" if point["new_tokens"] is None else f", {point['new_tokens']} written"
        lengths = f"prompt of {point['prompt_tokens']} tokens{written}<br>"
        return f"<b>{name}</b><br>{served_words(point, lengths)}"

    return {
        "mode": "lines+markers",
        "name": name + estimated,
        "legendgroup": name + estimated,
        "line": {
            "color": faded(color, 0.7),
            "width": 1.6,
            "dash": dash(first["energy_class"], DASHES[place]),
        },
        "marker": {
            "color": color,
            "size": 9,
            "symbol": symbol(shape, is_student),
            "line": {"width": 2 if not is_student else 0, "color": color},
        },
        "error_y": served_bars(line, factor, color),
        **points(line, x="prompt_tokens", y="j_per_token", y_factor=factor, of="groups", text=text),
    }
