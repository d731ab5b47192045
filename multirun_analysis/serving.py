"""Figures of serving: joules per token by model, phase, batch and length."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis import units
from multirun_analysis.marks import (
    MAX_ROWS,
    error_bars,
    facets,
    log_axis,
    named_rows,
    say_left_out,
    setting_mean,
    settings_by_kind,
)
from multirun_analysis.metrics import Interval, mean_interval
from multirun_analysis.palette import ACCENT, INK, faded, paradigm_color, styled
from multirun_analysis.pareto import energy_class
from multirun_analysis.rows import Row, distinct_students, grouped, known, to_rows

PHASES = ("prefill", "decode")
SUBJECTS = ("student", "teacher")


def energy_per_token_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Joules per token of each setting, its student and its teacher, prefill and decode.

    Means over seeds with half of the 95 % interval; one seed has none, nor has a teacher that was
    measured once for all.
    """
    found = []
    students = known(distinct_students(runs), "student_decode_j_per_token")
    for setting in settings_by_kind(students, "inference_energy_quality"):
        for phase in PHASES:
            for subject in SUBJECTS:
                mean = _shared_once(setting.rows, f"{subject}_{phase}_j_per_token")
                if mean is not None:
                    found.append(
                        facets(setting.rows)
                        | {
                            "setting": setting.label,
                            "subject": subject,
                            "quantization": _bits_of(subject, setting.rows[0]),
                            "phase": phase,
                            "j_per_token": mean.mean,
                            "half_width_j_per_token": mean.half_width,
                            "num_values": mean.num_values,
                            "energy_class": setting.kind,
                        }
                    )
    columns = ["group", "setting", "paradigm", "model", "gpu", "num_seeds", "subject"]
    columns += [
        "quantization",
        "phase",
        "j_per_token",
        "half_width_j_per_token",
        "num_values",
        "energy_class",
    ]
    return pd.DataFrame(found, columns=columns)


def _shared_once(rows: list[Row], column: str) -> Interval | None:
    """Mean over seeds in which a measurement that several runs share, to the last bit, is one."""
    values = {run[column]: run for run in known(rows, column)}
    return setting_mean(list(values.values()), column)


def energy_per_token(runs: pd.DataFrame) -> go.Figure:
    """Joules per token served, student (filled) against its teacher (ring): prefill and decode.

    Runs of one setting are averaged over seeds.
    """
    table = to_rows(energy_per_token_table(runs))
    groups = list(grouped(table, "setting").items())
    drawn = groups[:MAX_ROWS]
    fig = make_subplots(2, 1, vertical_spacing=max(0.05, 0.2 - 0.01 * len(drawn)))
    for row, phase in enumerate(PHASES, start=1):
        means = [mean for _, rows in drawn for mean in rows if mean["phase"] == phase]
        most = max((mean["j_per_token"] for mean in means), default=1.0)
        factor, prefix = units.prefix(most, lowest=1e-6)
        for label, found in reversed(drawn):
            marks = [mean for mean in found if mean["phase"] == phase]
            if not marks:
                continue
            color = paradigm_color(marks[0]["paradigm"])
            fig.add_scatter(
                x=[mean["j_per_token"] / factor for mean in marks],
                y=[label] * len(marks),
                mode="lines+markers",
                showlegend=False,
                line={"color": faded(color, 0.5), "width": 2},
                marker={
                    "color": color,
                    "size": 11,
                    "symbol": [
                        "circle" if mean["subject"] == "student" else "circle-open"
                        for mean in marks
                    ],
                    "line": {"width": 2, "color": color},
                },
                error_x=error_bars(
                    [mean["half_width_j_per_token"] for mean in marks], factor, color, 1.5
                ),
                hovertext=[_token_text(label, mean) for mean in marks],
                hoverinfo="text",
                customdata=[mean["group"] for mean in marks],
                meta={"group": marks[0]["group"]},
                xaxis=f"x{row}",
                yaxis=f"y{row}",
            )
        title = f"{phase.capitalize()}, {prefix}J/token"
        # Intervals over two seeds would dwarf the marks: they may leave the figure.
        span = [0.0, 1.12 * most / factor]
        fig.update_xaxes(title_text=title, range=span, row=row, col=1)
    say_left_out(fig, len(groups) - len(drawn), "settings")
    styled(fig, height=170 + 76 * len(drawn))
    return named_rows(fig, [label for label, _ in reversed(drawn)])


def _token_text(label: str, mean: Row) -> str:
    served = units.quantity(mean["j_per_token"], "J/token", error=mean["half_width_j_per_token"])
    return (
        f"<b>{escape(label)}</b><br>{served_model(mean)}, {mean['phase']}: {served}<br>"
        f"{mean['num_values']} seed(s), {mean['energy_class']}"
    )


def _bits_of(subject: str, run: Row) -> str | None:
    """int8 or int4 of a quantised teacher; students are served as they were trained."""
    return run["teacher_quantization"] if subject == "teacher" else None


def served_model(point: Row) -> str:
    """The subject, and of a quantised teacher in how many bits it was served."""
    bits = point["quantization"]
    return f"{point['subject']} in {bits}" if bits else point["subject"]


def serving_points(inference: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Joules per token of each phase by pair, card and its limit, subject, batch and lengths.

    Students of one pair have one architecture, so their measurements are averaged over settings
    and seeds, with half of the 95 % interval; a single measurement has that of its own repeats. A
    measurement that several runs share counts once. Measured and estimated ones stay apart. Prefill
    does not depend on what is written after it: its `new_tokens` is missing.
    """
    by_run = {run["run"]: run for run in distinct_students(runs)}
    found: dict[tuple, dict[tuple, Row]] = {}
    for row in to_rows(inference):
        run = by_run.get(row["run"])
        for phase in PHASES if run else ():
            reading = _phase(row, phase)
            if run is None or reading.get("j_per_token") is None:
                continue
            new_tokens = row["new_tokens"] if phase == "decode" else None
            place = (row["batch_size"], row["prompt_tokens"], new_tokens)
            kind = energy_class(reading.get("quality"))
            bits = _bits_of(row["subject"], run)
            card = (run["gpu"], run["power_limit_w"])
            key = (run["model"], *card, row["subject"], bits, phase, *place, kind)
            measurement = (reading["j_per_token"], reading.get("duration_s"))
            found.setdefault(key, {})[measurement] = reading | {"group": run["group"]}
    names = ("model", "gpu", "power_limit_w", "subject", "quantization", "phase")
    names += ("batch_size", "prompt_tokens", "new_tokens")
    points = []
    for key, readings in found.items():
        mean = _mean_of(list(readings.values()))
        points.append(
            dict(zip((*names, "energy_class"), key, strict=True))
            | {
                "j_per_token": mean.mean,
                "half_width_j_per_token": mean.half_width,
                "num_measurements": mean.num_values,
                "groups": ", ".join(sorted({r["group"] for r in readings.values()})),
            }
        )
    columns = [*names, "energy_class", "j_per_token", "half_width_j_per_token"]
    table = pd.DataFrame(points, columns=[*columns, "num_measurements", "groups"])
    return table.sort_values(list(names), ignore_index=True)


def _phase(row: Row, phase: str) -> Row:
    """One phase of a record of inference.json, whose mapping a table may have made columns of."""
    if isinstance(row.get(phase), dict):
        return row[phase]
    starts = (f"{phase}.", f"{phase}_")
    return {key[len(phase) + 1 :]: value for key, value in row.items() if key.startswith(starts)}


def _mean_of(readings: list[Row]) -> Interval:
    if len(readings) == 1:
        return Interval(readings[0]["j_per_token"], readings[0].get("interval_95_j"), 1)
    return mean_interval([reading["j_per_token"] for reading in readings])


def energy_per_token_by_length(inference: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Joules per token over the prompt's length: a line for each subject, batch and written length.

    Filled marks are students, rings their teachers; a dotted line is estimated. Both axes are
    logarithmic.
    """
    table = to_rows(serving_points(inference, runs))
    batches = sorted({point["batch_size"] for point in table})
    pairs = list(dict.fromkeys(map(_pair_of, table)))
    fig = make_subplots(2, 1, vertical_spacing=0.16)
    names: set[str] = set()
    for row, phase in enumerate(PHASES, start=1):
        points = [point for point in table if point["phase"] == phase]
        values = [point["j_per_token"] for point in points]
        factor, prefix = units.prefix(max(values, default=1.0), lowest=1e-6)
        lines = grouped(points, lambda point: tuple(point[key] for key in _LINE))
        for key, line in lines.items():
            trace = _length_trace(line, factor, batches, pairs, several=len(pairs) > 1)
            trace |= {"showlegend": trace["name"] not in names, "xaxis": f"x{row}"}
            names.add(trace["name"])
            fig.add_scatter(**trace, yaxis=f"y{row}", meta={"model": key[0], "gpu": key[1]})
        title = f"{phase.capitalize()}, {prefix}J/token"
        # An interval that reaches zero has no place on a logarithmic axis, and may leave it.
        arms = [min(p["half_width_j_per_token"] or 0.0, 0.7 * p["j_per_token"]) for p in points]
        ends = [(v + sign * arm) / factor for v, arm in zip(values, arms, strict=True)
                for sign in (-1, 1)]  # fmt: skip
        axis = log_axis(min(ends), max(ends)) if ends else {}
        fig.update_yaxes(title_text=title, row=row, col=1, **axis)
        lengths = sorted({point["prompt_tokens"] for point in points})
        shown = [str(length) for length in lengths]
        fig.update_xaxes(type="log", tickvals=lengths, ticktext=shown, row=row, col=1)
    fig.update_xaxes(title_text="Tokens of the prompt", row=2, col=1)
    return styled(fig, height=560)


_PAIR = ("model", "gpu", "power_limit_w")
_LINE = (*_PAIR, "subject", "quantization", "batch_size", "new_tokens", "energy_class")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")
_PAIR_COLORS = (ACCENT, "#d55e00", "#8a4f9e", "#0072b2", "#b88a00")


def _pair_of(point: Row) -> tuple:
    return tuple(point[key] for key in _PAIR)


def _length_trace(
    line: list[Row], factor: float, batches: list[int], pairs: list[tuple], *, several: bool
) -> dict[str, Any]:
    first = line[0]
    place = pairs.index(_pair_of(first)) % len(_PAIR_COLORS)
    is_student = first["subject"] == "student"
    color = _PAIR_COLORS[place] if is_student or several else INK
    symbol = _SYMBOLS[batches.index(first["batch_size"]) % len(_SYMBOLS)]
    limit_w = first["power_limit_w"]
    limit = "" if limit_w is None else f" at {limit_w:g} W"
    of_pair = f" of {first['model']} on {first['gpu']}{limit}" if several else ""
    name = escape(f"{served_model(first)}{of_pair}, batch {first['batch_size']}")
    estimated = "" if first["energy_class"] == "measured" else f", {first['energy_class']}"
    return {
        "x": [point["prompt_tokens"] for point in line],
        "y": [point["j_per_token"] / factor for point in line],
        "mode": "lines+markers",
        "name": name + estimated,
        "legendgroup": name + estimated,
        "line": {"color": faded(color, 0.7), "width": 1.6, "dash": "dot" if estimated else "solid"},
        "marker": {
            "color": color,
            "size": 9,
            "symbol": symbol if is_student else f"{symbol}-open",
            "line": {"width": 2 if not is_student else 0, "color": color},
        },
        "error_y": error_bars(
            [point["half_width_j_per_token"] for point in line], factor, color, 1.5
        ),
        "hovertext": [_length_text(name, point) for point in line],
        "hoverinfo": "text",
        "customdata": [point["groups"] for point in line],
    }


def _length_text(name: str, point: Row) -> str:
    written = "" if point["new_tokens"] is None else f", {point['new_tokens']} written"
    served = units.quantity(point["j_per_token"], "J/token", error=point["half_width_j_per_token"])
    count = point["num_measurements"]
    return (
        f"<b>{name}</b><br>{point['phase']}: {served}<br>prompt of {point['prompt_tokens']} tokens"
        f"{written}<br>{count} measurement{'s' * (count != 1)}, {point['energy_class']}"
    )
