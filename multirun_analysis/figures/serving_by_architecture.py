"""Joules per token served by each architecture, and how pairs and machines are told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import (
    dash,
    error_bars,
    first_rows,
    in_rows,
    points,
    symbol,
)
from multirun_analysis.figures.palette import ACCENT, faded
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.pooled_serving import PHASES, serving_pools
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, to_rows

PAIR = ("model", "gpu", "power_limit_w", "machine", "precision")
PLACE = ("batch_size", "prompt_tokens", "new_tokens")
PAIR_COLORS = (ACCENT, "#d55e00", "#8a4f9e", "#0072b2", "#b88a00")


def energy_per_token(runs: pd.DataFrame, inference: pd.DataFrame) -> Exhibit:
    """Joules per token of each architecture, student and teacher, prefill and decode.

    They are at the point that stands for the runs: means over the runs that measured it, with half
    of the 95 % interval by Student's t. A single measurement has the spread of others on its
    machine, or none.
    """
    found, rows = [], to_rows(runs)
    group_of = {run["run"]: run["group"] for run in rows}
    about = about_of(runs)
    for one in serving_pools(rows, to_rows(inference)):
        for phase in PHASES:
            served = one.phase(phase)
            if served.value is None or one.quality == "reported":
                continue
            place = one.place or (None, None, None)
            found.append(
                about(one.run)
                | {"subject": one.subject, "quantization": bits_of(one.subject, one.run)}
                | {"phase": phase}
                | dict(zip(PLACE, place, strict=True))
                | {
                    "j_per_token": served.value,
                    "half_width_j_per_token": served.random_half_width,
                    "num_measurements": len(one.measurements),
                    "energy_class": one.quality,
                    "groups": ", ".join(sorted({group_of[run] for run, _ in one.takers})),
                }
            )
    columns = [*PAIR, "subject", "quantization", "phase", *PLACE]
    columns += ["j_per_token", "half_width_j_per_token", "num_measurements"]
    return Exhibit(
        "Energy per token served by our eager loop, by architecture",
        f"Served by {loop_words(rows) or 'our eager loop'}. Prefill reads the prompt, decode "
        "writes the answer. Filled points are students, rings are their teachers. Both had the "
        "same prompts, batch size and device. Students of one architecture share one point, "
        "whatever trained them. Bars are 95 % intervals over measurements and may leave the "
        "figure.",
        pd.DataFrame(found, columns=[*columns, "energy_class", "groups"]),
        _draw,
    )


def _draw(table: pd.DataFrame) -> go.Figure:
    """Student (filled) against its teacher (ring): prefill and decode.

    A row for each architecture: its students serve alike, whatever taught them.
    """
    every = to_rows(table)
    name = _row_names(every)
    shown, rows, left_out = first_rows([row | {"name": name(row)} for row in every], "name")
    pairs = list(dict.fromkeys(map(pair_of, every)))
    # One row leaves the upper axis' words little room.
    fig = make_subplots(2, 1, vertical_spacing=max(0.05, 0.4 / (1 + len(shown) / 2)))
    for place, phase in enumerate(PHASES, start=1):
        means = [row for row in rows if row["phase"] == phase]
        most = max((mean["j_per_token"] for mean in means), default=1.0)
        factor, prefix = units.prefix(most, lowest=1e-6)
        marks = grouped(means, "name")
        for label in reversed([label for label in shown if label in marks]):
            trace = _trace(marks[label], factor, pairs)
            fig.add_scatter(**trace, xaxis=f"x{place}", yaxis=f"y{place}")
        title = f"{phase.capitalize()}, {prefix}J/token"
        # Intervals over two measurements would dwarf the marks: they may leave the figure.
        span = [0.0, 1.12 * most / factor]
        fig.update_xaxes(title_text=title, range=span, row=place, col=1)
    height = 200 + 76 * len(shown)
    return in_rows(fig, shown, left_out=left_out, what="architectures", height=height, y="Pair")


def _trace(marks: list[Row], factor: float, pairs: list[tuple]) -> dict[str, Any]:
    first = marks[0]
    color = PAIR_COLORS[pairs.index(pair_of(first)) % len(PAIR_COLORS)]
    return {
        "mode": "lines+markers",
        "showlegend": False,
        "line": {"color": faded(color, 0.5), "width": 2, "dash": dash(first["energy_class"])},
        "marker": {
            "color": color,
            "size": 11,
            "symbol": [symbol("circle", mean["subject"] == "student") for mean in marks],
            "line": {"width": 2, "color": color},
        },
        "error_x": served_bars(marks, factor, color),
        "meta": {"model": first["model"], "gpu": first["gpu"]},
        **points(marks, x="j_per_token", x_factor=factor, y="name", of="groups", text=_mean_text),
    }


def _mean_text(mean: Row) -> str:
    return f"<b>{escape(mean['name'])}</b><br>{served_model(mean)}, {served_words(mean)}"


def served_bars(marks: list[Row], factor: float, color: str) -> dict[str, Any] | None:
    """Error bars of joules per token. None where no bar has an error."""
    error = "half_width_j_per_token"
    return error_bars(marks, error, factor=factor, color=color, thickness=1.5)


def served_words(mean: Row, of: str = "") -> str:
    """Phase and joules with their error. Below, how often and how they were measured."""
    served = units.quantity(mean["j_per_token"], "J/token", error=mean["half_width_j_per_token"])
    measured = units.count(mean["num_measurements"], "measurement")
    return f"{mean['phase']}: {served}<br>{of}{measured}, {mean['energy_class']}"


def about_of(runs: pd.DataFrame) -> Callable[[Row], Row]:
    """A function that gives the pair, GPU, precision and machine of a run.

    Machines are numbered in order of appearance: a page that is published names no host.
    """
    hosts = list(dict.fromkeys(run["host"] for run in to_rows(runs) if run["finished"]))

    def about(run: Row) -> Row:
        return {
            name: hosts.index(run["host"]) + 1 if name == "machine" else run.get(name)
            for name in PAIR
        }

    return about


def _row_names(table: list[Row]) -> Callable[[Row], str]:
    """A function that names the row of a mark: its pair, and what else differs between rows."""
    machine = machine_words(table)
    several = len({tuple(mark[key] for key in ("gpu", "power_limit_w")) for mark in table}) > 1
    apart = len({tuple(mark[key] for key in PLACE) for mark in table} - {(None,) * 3}) > 1
    kinds = len({mark["energy_class"] for mark in table}) > 1

    def name(mark: Row) -> str:
        parts = [str(mark["model"])]
        if several:
            parts.append(f"{mark['gpu']}{limit_words(mark)}")
        parts += filter(None, [machine(mark).removeprefix(", ")])
        if apart and mark["batch_size"] is not None:
            parts.append("batch {}, {} + {} tokens".format(*(mark[key] for key in PLACE)))
        if kinds:
            parts.append(mark["energy_class"])
        return " · ".join(parts)

    return name


def machine_words(points: list[Row]) -> Callable[[Row], str]:
    """A function for what tells machines and precisions apart. Empty where there is one of each."""
    several = len({point["machine"] for point in points}) > 1
    precisions = {point["precision"] for point in points}

    def words(point: Row) -> str:
        machine = f", machine {point['machine']}" if several else ""
        return machine + (f", {point['precision']}" if len(precisions) > 1 else "")

    return words


def limit_words(point: Row) -> str:
    """The power limit in words. Empty where there is none."""
    limit_w = point["power_limit_w"]
    return "" if limit_w is None else f" at {limit_w:g} W"


def bits_of(subject: str, run: Row) -> str | None:
    """int8 or int4 of a quantised teacher. Students are served as they were trained."""
    return run["teacher_quantization"] if subject == "teacher" else None


def served_model(point: Row) -> str:
    """The subject and, for a quantised teacher, in how many bits it was served."""
    bits = point["quantization"]
    return f"{point['subject']} in {bits}" if bits else point["subject"]


def pair_of(point: Row) -> tuple:
    """What tells a pair apart."""
    return tuple(point[key] for key in PAIR)
