"""One offline page about a folder of runs: the answer first, then figures, tables and caveats.

Everything is inside the file. A content security policy forbids every request, so the page cannot
leak what it shows, and all text that comes from run folders is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from multirun_analysis import units
from multirun_analysis.answer import answer, energy_column
from multirun_analysis.caveats import caveats
from multirun_analysis.collect import Collected
from multirun_analysis.curves import loss_curves, loss_terms, power_over_time
from multirun_analysis.metrics import stage_energies, top_windows
from multirun_analysis.palette import paradigm_color, stage_words
from multirun_analysis.plots import (
    BITS_PER_BYTE,
    OM_PERF,
    Quality,
    energy_by_stage,
    energy_per_token,
    quality_against_energy,
)
from multirun_analysis.rows import Row, distinct_students, grouped, known, to_rows

MAX_POWER_RUNS = 24
"""Runs whose power curves go into the page: at some 30 kB each the page stays a few megabytes."""


def write_report(collected: Collected, out_dir: Path) -> Path:
    """Path of `report.html`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "report.html"
    path.write_text(report_html(collected), encoding="utf-8")
    return path


def report_html(collected: Collected) -> str:
    """The page as text."""
    runs, rows = collected.runs, to_rows(collected.runs)
    own = files("multirun_analysis")
    style, script = (own.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    sections = [
        _quality_section(runs),
        _stage_section(runs, collected.stages),
        _serving_section(runs),
        _runs_section(rows),
        _unfinished_section(rows),
        _power_section(rows, collected.telemetry, collected.stages),
        _loss_section(runs, collected.train),
        _caveats_section(collected),
    ]
    scripts = [get_plotlyjs(), script]
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src "
        f"{' '.join(map(_hash, scripts))}"
    )
    folders = sorted({str(Path(folder).parent) for folder in runs["folder"]})
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Students and their energy</title>
<style>{style}</style>
</head>
<body>
{_header(runs)}
<main>
{"".join(sections)}
</main>
<footer>Made by multirun_analysis from {escape(", ".join(folders))}. Beside this page: runs.csv and
runs.parquet hold every number.</footer>
{"".join(f"<script>{text}</script>" for text in scripts)}
</body>
</html>
"""


def _hash(script: str) -> str:
    """The policy's name for an inline script, so that no other script can run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _header(runs: pd.DataFrame) -> str:
    found = answer(runs)
    num_students, num_open = len(distinct_students(runs)), list(runs["finished"]).count(False)
    listed = (
        f'<a href="#unfinished">{num_open} failed or unfinished</a>' if num_open else "all finished"
    )
    cards = "".join(
        f'<div class="card" style="--hue:{paradigm_color(card.paradigm)}">'
        f'<div class="question">{escape(card.question)}</div>'
        f'<div class="student">{escape(card.student)}</div>'
        f'<div class="figure">{escape(card.figure)}</div>'
        f'<div class="detail">{escape(card.detail)}</div></div>'
        for card in found.cards
    )
    return f"""<header>
<p class="eyebrow"><b>kdwatts</b> · {num_students} students of {len(runs)} runs · {listed}</p>
<h1>{escape(found.headline)}</h1>
{"".join(f'<p class="lead">{escape(text)}</p>' for text in found.sureness)}
{f'<p class="warn">{escape(found.warning)}</p>' if found.warning else ""}
<div class="cards">{cards}</div>
</header>"""


def _section(title: str, subtitle: str, body: str, *, anchor: str = "") -> str:
    return f"""<section{f' id="{anchor}"' if anchor else ""}>
<h2>{title}</h2>
<p class="sub">{subtitle}</p>
{body}
</section>
"""


def _slot(title: str, figures: Mapping[str, go.Figure]) -> str:
    """A panel that shows one of its figures, by the value of the section's control."""
    data = "".join(
        f'<script type="application/json" data-choice="{choice}">{_json(figure)}</script>'
        for choice, figure in figures.items()
    )
    plot = f'<div class="plot" role="img" aria-label="{title}"></div>'
    return f'<figure class="panel slot"><figcaption>{title}</figcaption>{plot}{data}</figure>'


def _json(figure: go.Figure) -> str:
    # A closing script tag inside a label would end the element; JSON may spell it otherwise.
    return str(figure.to_json()).replace("<", "\\u003c")


def _radio(name: str, choices: Mapping[str, str]) -> str:
    options = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (i == 0)}>'
        f"<span>{escape(text)}</span></label>"
        for i, (value, text) in enumerate(choices.items())
    )
    return f'<fieldset class="controls control">{options}</fieldset>'


def _select(label: str, choices: Sequence[str]) -> str:
    options = "".join(
        f'<option value="{i}">{escape(text)}</option>' for i, text in enumerate(choices)
    )
    return f'<select class="control" aria-label="{label}">{options}</select>'


def _quality_section(runs: pd.DataFrame) -> str:
    students = distinct_students(runs)
    energies = {
        "total_amortised_energy_j": "With its share of inherited work",
        "own_energy_j": "Own energy alone",
    }
    energies = {key: text for key, text in energies.items() if known(students, key)}
    panels: dict[str, Quality] = {
        "Accuracy kept: higher is better": OM_PERF,
        "Held-out text: lower is better": BITS_PER_BYTE,
    }
    slots = [
        _slot(title, {e: quality_against_energy(runs, energy=e, quality=quality) for e in energies})
        for title, quality in panels.items()
        if energies and known(students, quality.column)
    ]
    if not slots:
        return ""
    kinds = {run["total_energy_quality"] for run in students}
    opened = " Open circles are not measured." if kinds & {"estimated", "mixed"} else ""
    return _section(
        "Accuracy against energy",
        "Circles are runs, diamonds are means over seeds with 95 % intervals, which may leave the "
        f"figure. The dotted line joins the students that no other beats on both counts.{opened}",
        _radio("energy", energies) + f'<div class="pair">{"".join(slots)}</div>',
    )


_COLUMNS = {
    "Own energy": "± sd",
    "All in": "with inherited share",
    "OM_perf": "± se",
    "Bits per byte": "student, teacher",
    "Decode, J/token": "student, teacher",
    "Training": "time, J/token",
    "CO2e": "own energy",
}


def _runs_section(runs: list[Row]) -> str:
    finished = [run for run in runs if run["finished"]]
    energy = energy_column(finished)
    finished.sort(key=lambda run: (run[energy] is None, run[energy]))
    if not finished:
        return ""
    heads = "".join(f"<th>{title}<small>{small}</small></th>" for title, small in _COLUMNS.items())
    notes = "; ".join(f"{run['run']}: {run['notes']}" for run in known(finished, "notes"))
    return _section(
        "Runs",
        "Finished runs, least energy first. A dash is a number that was not measured; sd is one "
        "standard deviation, se one standard error. All columns are in runs.csv.",
        _table(f"<th>Run</th>{heads}", "".join(_run_row(run) for run in finished))
        + (f'<p class="sub">Notes. {escape(notes)}.</p>' if notes else ""),
    )


def _table(heads: str, body: str) -> str:
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _run_row(run: Row) -> str:
    co2e_g = None if run["co2e_kg"] is None else 1000 * run["co2e_kg"]
    own = units.energy(run["own_energy_j"], error_j=run["own_energy_uncertainty_j"])
    cells = [
        (own, run["own_energy_quality"]),
        (units.energy(run["total_amortised_energy_j"]), run["total_energy_quality"]),
        (units.with_error(run["om_perf"], run["om_perf_stderr"]), None),
        (units.number(run["student_bits_per_byte"]), units.number(run["teacher_bits_per_byte"])),
        (
            units.quantity(run["student_decode_j_per_token"], "J"),
            units.quantity(run["teacher_decode_j_per_token"], "J"),
        ),
        (
            units.duration(run["train_duration_s"]),
            units.quantity(run["train_j_per_token"], "J/token"),
        ),
        (units.quantity(co2e_g, "g"), run["site"]),
    ]
    columns = "".join(
        f"<td>{escape(text)}<small>{_text(small)}</small></td>" for text, small in cells
    )
    return f"<tr>{_run_head(run)}{columns}</tr>"


def _run_head(run: Row) -> str:
    return (
        f'<th scope="row"><span class="dot" style="--hue:{paradigm_color(run["paradigm"])}"></span>'
        f"{escape(run['label'])}<small>{escape(run['run'])}</small></th>"
    )


def _text(value: object) -> str:
    return "" if value is None else escape(str(value))


def _unfinished_section(runs: list[Row]) -> str:
    body = "".join(
        f'<tr>{_run_head(run)}<td class="left"><span class="state">{_text(run["state"])}</span>'
        f'</td><td class="words">{_text(run["reason"])}</td></tr>'
        for run in runs
        if not run["finished"]
    )
    return body and _section(
        "Failed and unfinished runs",
        "They are in no figure and in no mean.",
        _table('<th>Run</th><th class="left">State</th><th class="left">Reason</th>', body),
        anchor="unfinished",
    )


def _stage_section(runs: pd.DataFrame, stages: pd.DataFrame) -> str:
    finished = runs.loc[runs["finished"]]
    windows = [w for w in top_windows(to_rows(stages)) if w["run"] in set(finished["run"])]
    if not windows:
        return ""
    drawn = {(part["run"], part["stage"]) for part in stage_energies(to_rows(finished), windows)}
    absent = {stage_words(w["stage"]) for w in windows if (w["run"], w["stage"]) not in drawn}
    note = f" Not recorded in some runs: {escape(', '.join(sorted(absent)))}." if absent else ""
    return _section(
        "Where the energy went",
        "All attempts of each run. Hatched stages were reused: the bar is what they once cost "
        f"another run, undivided.{note}",
        _slot("Energy by stage", {"0": energy_by_stage(finished, stages)}),
    )


def _power_section(runs: list[Row], telemetry: pd.DataFrame, stages: pd.DataFrame) -> str:
    names = set(telemetry["run"])
    shown = [run for run in runs if run["run"] in names]
    if not shown:
        return ""
    note = ""
    if len(shown) > MAX_POWER_RUNS:
        note = f" {len(shown) - MAX_POWER_RUNS} more runs have telemetry: draw them in a notebook."
        # One of each setting comes before further seeds.
        turns = [
            (i, run) for rows in grouped(shown, "group").values() for i, run in enumerate(rows)
        ]
        shown = [run for _, run in sorted(turns, key=lambda turn: turn[0])][:MAX_POWER_RUNS]
    figures = {
        str(i): power_over_time(telemetry, stages, run=r["run"]) for i, r in enumerate(shown)
    }
    labels = [r["label"] + ("" if r["finished"] else f" ({r['state']}, {r['run']})") for r in shown]
    return _section(
        "Power over time",
        "Each device of one run, and the stage it was in. Long runs are averaged over equal spans. "
        f"A dotted curve is estimated, not measured.{note}",
        _select("Run", labels) + _slot("Power of each device", figures),
    )


def _serving_section(runs: pd.DataFrame) -> str:
    if not known(distinct_students(runs), "student_decode_j_per_token"):
        return ""
    return _section(
        "Energy to serve",
        "Filled points are students, rings their teachers, on the same prompts, batch and device. "
        "Bars are 95 % intervals over seeds.",
        _slot("Student and teacher, joules per token", {"0": energy_per_token(runs)}),
    )


def _loss_section(runs: pd.DataFrame, train: pd.DataFrame) -> str:
    terms = loss_terms(train)
    if not terms or not distinct_students(runs):
        return ""
    figures = {str(i): loss_curves(train, runs, term=term) for i, term in enumerate(terms)}
    names = {str(i): stage_words(term.removesuffix("_nats")) for i, term in enumerate(terms)}
    return _section(
        "Training loss",
        "One line for each student. Losses of different paradigms sum different terms: compare a "
        "term, not the whole.",
        _radio("term", names) + _slot("Loss over training", figures),
    )


def _caveats_section(collected: Collected) -> str:
    items = "".join(
        f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in caveats(collected)
    )
    return items and _section("Before you quote a number", "", f"<dl>{items}</dl>")
