"""Figures of serving: joules per token by model, phase, batch and length."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kdwatts.metrics.pooling import pool, relative_spread
from multirun_analysis.figures.marks import MAX_ROWS, error_bars, log_axis, named_rows, say_left_out
from multirun_analysis.figures.palette import ACCENT, INK, faded, styled
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.pooled_serving import PHASES, alike, serving_pools
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, to_rows


def energy_per_token_table(runs: pd.DataFrame, inference: pd.DataFrame) -> pd.DataFrame:
    """Joules per token of each architecture, student and teacher, prefill and decode.

    At the place that answers for the runs: means over the runs that measured it, with half of the
    95 % interval by Student's t. A single measurement has that of others on its machine, or none.
    """
    found = []
    group_of = {run["run"]: run["group"] for run in to_rows(runs)}
    about = _about_of(runs)
    for one in serving_pools(to_rows(runs), to_rows(inference)):
        for phase in PHASES:
            served = one.phase(phase)
            if served.value is None or one.quality == "reported":
                continue
            place = one.place or (None, None, None)
            found.append(
                about(one.run)
                | {"subject": one.subject, "quantization": _bits_of(one.subject, one.run)}
                | {"phase": phase}
                | dict(zip(("batch_size", "prompt_tokens", "new_tokens"), place, strict=True))
                | {
                    "j_per_token": served.value,
                    "half_width_j_per_token": served.random_half_width,
                    "num_measurements": len(one.measurements),
                    "energy_class": one.quality,
                    "groups": ", ".join(sorted({group_of[run] for run, _ in one.takers})),
                }
            )
    columns = [*_PAIR, "subject", "quantization", "phase"]
    columns += ["batch_size", "prompt_tokens", "new_tokens"]
    columns += ["j_per_token", "half_width_j_per_token", "num_measurements"]
    return pd.DataFrame(found, columns=[*columns, "energy_class", "groups"])


def energy_per_token(runs: pd.DataFrame, inference: pd.DataFrame) -> go.Figure:
    """Joules per token served, student (filled) against its teacher (ring): prefill and decode.

    A row for each architecture: its students serve alike, whatever taught them.
    """
    table = to_rows(energy_per_token_table(runs, inference))
    name = _row_names(table)
    groups = list(grouped(table, name).items())
    drawn = groups[:MAX_ROWS]
    pairs = list(dict.fromkeys(map(_pair_of, table)))
    # One row leaves the upper axis' words little room.
    fig = make_subplots(2, 1, vertical_spacing=max(0.05, 0.4 / (1 + len(drawn) / 2)))
    for row, phase in enumerate(PHASES, start=1):
        means = [mean for _, rows in drawn for mean in rows if mean["phase"] == phase]
        most = max((mean["j_per_token"] for mean in means), default=1.0)
        factor, prefix = units.prefix(most, lowest=1e-6)
        for label, found in reversed(drawn):
            marks = [mean for mean in found if mean["phase"] == phase]
            if not marks:
                continue
            color = _PAIR_COLORS[pairs.index(_pair_of(marks[0])) % len(_PAIR_COLORS)]
            dash = "solid" if marks[0]["energy_class"] == "measured" else "dot"
            fig.add_scatter(
                x=[mean["j_per_token"] / factor for mean in marks],
                y=[label] * len(marks),
                mode="lines+markers",
                showlegend=False,
                line={"color": faded(color, 0.5), "width": 2, "dash": dash},
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
                customdata=[mean["groups"] for mean in marks],
                meta={"model": marks[0]["model"], "gpu": marks[0]["gpu"]},
                xaxis=f"x{row}",
                yaxis=f"y{row}",
            )
        title = f"{phase.capitalize()}, {prefix}J/token"
        # Intervals over two measurements would dwarf the marks: they may leave the figure.
        span = [0.0, 1.12 * most / factor]
        fig.update_xaxes(title_text=title, range=span, row=row, col=1)
    say_left_out(fig, len(groups) - len(drawn), "architectures")
    styled(fig, height=200 + 76 * len(drawn))
    return named_rows(fig, [label for label, _ in reversed(drawn)])


def _about_of(runs: pd.DataFrame) -> Callable[[Row], Row]:
    """A function that tells the pair, GPU and precision of a run, and its machine.

    Machines are numbered as they come: a page that is published names no host.
    """
    hosts = list(dict.fromkeys(run["host"] for run in to_rows(runs) if run["finished"]))

    def about(run: Row) -> Row:
        return {
            name: hosts.index(run["host"]) + 1 if name == "machine" else run.get(name)
            for name in _PAIR
        }

    return about


def _row_names(table: list[Row]) -> Callable[[Row], str]:
    """A function that names the row of a mark: its pair, and what else differs between rows."""
    machine = _machine_words(table)
    several = len({tuple(mark[key] for key in ("gpu", "power_limit_w")) for mark in table}) > 1
    places = ("batch_size", "prompt_tokens", "new_tokens")
    apart = len({tuple(mark[key] for key in places) for mark in table} - {(None,) * 3}) > 1
    kinds = len({mark["energy_class"] for mark in table}) > 1

    def name(mark: Row) -> str:
        parts = [str(mark["model"])]
        if several:
            parts.append(f"{mark['gpu']}{_limit_words(mark)}")
        parts += filter(None, [machine(mark).removeprefix(", ")])
        if apart and mark["batch_size"] is not None:
            parts.append("batch {}, {} + {} tokens".format(*(mark[key] for key in places)))
        if kinds:
            parts.append(mark["energy_class"])
        return " · ".join(parts)

    return name


def _machine_words(points: list[Row]) -> Callable[[Row], str]:
    """A function for what tells machines and precisions apart, empty where there is one of each."""
    several = len({point["machine"] for point in points}) > 1
    precisions = {point["precision"] for point in points}

    def words(point: Row) -> str:
        machine = f", machine {point['machine']}" if several else ""
        return machine + (f", {point['precision']}" if len(precisions) > 1 else "")

    return words


def _limit_words(point: Row) -> str:
    limit_w = point["power_limit_w"]
    return "" if limit_w is None else f" at {limit_w:g} W"


def _token_text(label: str, mean: Row) -> str:
    served = units.quantity(mean["j_per_token"], "J/token", error=mean["half_width_j_per_token"])
    count = mean["num_measurements"]
    return (
        f"<b>{escape(label)}</b><br>{served_model(mean)}, {mean['phase']}: {served}<br>"
        f"{count} measurement{'s' * (count != 1)}, {mean['energy_class']}"
    )


def _bits_of(subject: str, run: Row) -> str | None:
    """int8 or int4 of a quantised teacher; students are served as they were trained."""
    return run["teacher_quantization"] if subject == "teacher" else None


def served_model(point: Row) -> str:
    """The subject, and of a quantised teacher in how many bits it was served."""
    bits = point["quantization"]
    return f"{point['subject']} in {bits}" if bits else point["subject"]


def serving_points(inference: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Joules per token of each phase by what serves alike, subject, batch and lengths.

    Students of one architecture serve alike, so their measurements are averaged over settings and
    seeds, with half of the 95 % interval; a single measurement has the spread of others on its
    machine, or none. A measurement that several runs share counts once. Machines, power limits and
    precisions stay apart, and so do measured and estimated ones. Prefill does not depend on what is
    written after it: its `new_tokens` is missing.
    """
    by_run = {run["run"]: run for run in to_rows(runs) if run["finished"]}
    pair_of = _about_of(runs)
    found: dict[tuple, tuple[tuple, dict[tuple, Row]]] = {}
    for row in to_rows(inference):
        run = by_run.get(row["run"])
        for phase in PHASES if run else ():
            reading = _phase(row, phase)
            if run is None or reading.get("j_per_token") is None:
                continue
            new_tokens = row["new_tokens"] if phase == "decode" else None
            place = (row["batch_size"], row["prompt_tokens"], new_tokens)
            kind = energy_class(reading.get("quality"))
            about = (*pair_of(run).values(), row["subject"])
            about = (*about, _bits_of(row["subject"], run), phase)
            key = (alike(run, row["subject"]), *place, kind)
            _, readings = found.setdefault((row["subject"], phase, *key), (about, {}))
            measurement = (row.get("measurement"), reading["j_per_token"])
            measurement = (*measurement, reading.get("duration_s"))
            readings.setdefault(measurement, reading | {"groups": set()})
            readings[measurement]["groups"].add(run["group"])
    names = (*_PAIR, "subject", "quantization", "phase")
    places = ("batch_size", "prompt_tokens", "new_tokens", "energy_class")
    points = []
    for key, (about, readings) in found.items():
        values = [reading["j_per_token"] for reading in readings.values()]
        point = dict(zip((*names, *places), (*about, *key[-4:]), strict=True))
        groups = sorted(set().union(*(reading["groups"] for reading in readings.values())))
        points.append(point | {"values": values, "groups": ", ".join(groups)})
    for point in points:
        others = [p["values"] for p in points if all(p[k] == point[k] for k in _ONE_MACHINE)]
        mean = pool(point["values"], borrowed=relative_spread(others))
        point["j_per_token"] = mean.value
        point["half_width_j_per_token"] = mean.random_half_width
        point["num_measurements"] = len(point["values"])
    columns = [*names, *places, "j_per_token", "half_width_j_per_token"]
    table = pd.DataFrame(points, columns=[*columns, "num_measurements", "groups"])
    return table.sort_values([*names, *places[:3]], ignore_index=True)


_ONE_MACHINE = ("gpu", "power_limit_w", "machine", "phase", "energy_class")


def _phase(row: Row, phase: str) -> Row:
    """One phase of a record of inference.json, whose mapping a table may have made columns of."""
    if isinstance(row.get(phase), dict):
        return row[phase]
    starts = (f"{phase}.", f"{phase}_")
    return {key[len(phase) + 1 :]: value for key, value in row.items() if key.startswith(starts)}


def energy_per_token_by_length(inference: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Joules per token over the prompt's length: a line for each subject, batch and written length.

    Filled marks are students, rings their teachers; a dotted line is estimated. Both axes are
    logarithmic.
    """
    table = to_rows(serving_points(inference, runs))
    batches = sorted({point["batch_size"] for point in table})
    pairs = list(dict.fromkeys(map(_pair_of, table)))
    machine = _machine_words(table)
    fig = make_subplots(2, 1, vertical_spacing=0.16)
    names: set[str] = set()
    for row, phase in enumerate(PHASES, start=1):
        points = [point for point in table if point["phase"] == phase]
        values = [point["j_per_token"] for point in points]
        factor, prefix = units.prefix(max(values, default=1.0), lowest=1e-6)
        lines = grouped(points, lambda point: tuple(point[key] for key in _LINE))
        for key, line in lines.items():
            trace = _length_trace(line, factor, batches, pairs, machine, several=len(pairs) > 1)
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


_PAIR = ("model", "gpu", "power_limit_w", "machine", "precision")
_LINE = (*_PAIR, "subject", "quantization", "batch_size", "new_tokens", "energy_class")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")
_PAIR_COLORS = (ACCENT, "#d55e00", "#8a4f9e", "#0072b2", "#b88a00")


def _pair_of(point: Row) -> tuple:
    return tuple(point[key] for key in _PAIR)


def _length_trace(
    line: list[Row],
    factor: float,
    batches: list[int],
    pairs: list[tuple],
    machine: Callable[[Row], str],
    *,
    several: bool,
) -> dict[str, Any]:
    first = line[0]
    place = pairs.index(_pair_of(first)) % len(_PAIR_COLORS)
    is_student = first["subject"] == "student"
    color = _PAIR_COLORS[place] if is_student or several else INK
    symbol = _SYMBOLS[batches.index(first["batch_size"]) % len(_SYMBOLS)]
    of_pair = ""
    if several:
        of_pair = f" of {first['model']} on {first['gpu']}{_limit_words(first)}{machine(first)}"
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
