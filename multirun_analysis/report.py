"""One offline page about a folder of runs: the answer first, then figures, tables and caveats.

Everything is inside the file. A content security policy forbids every request, so the page cannot
leak what it shows, and all text that comes from run folders is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from multirun_analysis.answer import answer
from multirun_analysis.caveats import caveats
from multirun_analysis.collect import Collected
from multirun_analysis.curves import (
    loss_curves,
    loss_terms,
    quality_against_joules,
)
from multirun_analysis.metrics import stage_energies, top_windows
from multirun_analysis.page import radio, section, select, slot
from multirun_analysis.palette import paradigm_color, stage_words
from multirun_analysis.plots import (
    BITS_PER_BYTE,
    OM_PERF,
    Quality,
    energy_by_stage,
    quality_against_energy,
)
from multirun_analysis.repayment import repayment_section
from multirun_analysis.rows import Row, distinct_students, grouped, known, to_rows
from multirun_analysis.serving import energy_per_token
from multirun_analysis.tables import (
    imported_section,
    runs_section,
    scores_section,
    unfinished_section,
)
from multirun_analysis.telemetry import Telemetry
from multirun_analysis.timelines import devices_over_time

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
        repayment_section(runs, collected.train),
        runs_section(rows),
        scores_section(rows, to_rows(collected.scores)),
        imported_section(rows),
        unfinished_section(rows),
        _power_section(rows, collected.telemetry, collected.stages),
        _joules_section(runs, collected.train),
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
    if num_imported := len(known(to_rows(runs), "origin")):
        listed += f' · <a href="#imported">{num_imported} imported</a>'
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
        slot(title, {e: quality_against_energy(runs, energy=e, quality=quality) for e in energies})
        for title, quality in panels.items()
        if energies and known(students, quality.column)
    ]
    if not slots:
        return ""
    drawn = [run for run in students if any(known([run], q.column) for q in panels.values())]
    kinds = {run["total_energy_quality"] for run in students}
    opened = " Open circles are not measured." if kinds & {"estimated", "mixed"} else ""
    opened += " Squares are imported." if known(drawn, "origin") else ""
    if num_apart := len(students) - len(drawn):
        opened += f" Without a score to draw: {num_apart}."
    return section(
        "Accuracy against energy",
        "Circles are runs, diamonds are means over seeds with 95 % intervals, which may leave the "
        f"figure. The dotted line joins the students that no other beats on both counts.{opened}",
        radio("energy", energies) + f'<div class="pair">{"".join(slots)}</div>',
    )


def _stage_section(runs: pd.DataFrame, stages: pd.DataFrame) -> str:
    finished = runs.loc[runs["finished"]]
    windows = [w for w in top_windows(to_rows(stages)) if w["run"] in set(finished["run"])]
    if not windows:
        return ""
    drawn = {(part["run"], part["stage"]) for part in stage_energies(to_rows(finished), windows)}
    absent = {stage_words(w["stage"]) for w in windows if (w["run"], w["stage"]) not in drawn}
    note = f" Not recorded in some runs: {escape(', '.join(sorted(absent)))}." if absent else ""
    # On one axis the runs of one origin may dwarf those of the other.
    ours = finished["origin"].isna()
    origins = {"Runs of ours": finished.loc[ours], "Imported runs": finished.loc[~ours]}
    origins = {words: table for words, table in origins.items() if len(table)}
    figures = {str(i): energy_by_stage(t, stages) for i, t in enumerate(origins.values())}
    choices = dict(zip(figures, origins, strict=True))
    return section(
        "Where the energy went",
        "All attempts of each run. Hatched stages were reused: the bar is what they once cost "
        f"another run, undivided.{note}",
        (radio("origin", choices) if len(choices) > 1 else "") + slot("Energy by stage", figures),
    )


def _power_section(runs: list[Row], telemetry: Telemetry, stages: pd.DataFrame) -> str:
    names = set(telemetry.runs)
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
        str(i): devices_over_time(telemetry.of(r["run"]), stages, run=r["run"])
        for i, r in enumerate(shown)
    }
    labels = [r["label"] + ("" if r["finished"] else f" ({r['state']}, {r['run']})") for r in shown]
    return section(
        "Power over time",
        "Each device of one run, and the stage it was in. Long runs are averaged over equal spans. "
        f"A dotted curve is estimated, not measured.{note}",
        select("Run", labels) + slot("Power of each device", figures),
    )


def _serving_section(runs: pd.DataFrame) -> str:
    if not known(distinct_students(runs), "student_decode_j_per_token"):
        return ""
    return section(
        "Energy to serve",
        "Filled points are students, rings their teachers, on the same prompts, batch and device. "
        "Bars are 95 % intervals over seeds.",
        slot("Student and teacher, joules per token", {"0": energy_per_token(runs)}),
    )


def _joules_section(runs: pd.DataFrame, train: pd.DataFrame) -> str:
    figure = quality_against_joules(train, runs)
    if not figure.data:
        return ""
    return section(
        "Quality while training",
        "What each student had learned by the time it had drawn so many joules, read on rows that "
        "are never trained on. Open marks are estimates. Inherited work is not in it.",
        slot("Held-out text against energy", {"0": figure}),
    )


def _loss_section(runs: pd.DataFrame, train: pd.DataFrame) -> str:
    terms = loss_terms(train)
    if not terms or not distinct_students(runs):
        return ""
    figures = {str(i): loss_curves(train, runs, term=term) for i, term in enumerate(terms)}
    names = {str(i): stage_words(term.removesuffix("_nats")) for i, term in enumerate(terms)}
    return section(
        "Training loss",
        "One line for each student. Losses of different paradigms sum different terms: compare a "
        "term, not the whole.",
        radio("term", names) + slot("Loss over training", figures),
    )


def _caveats_section(collected: Collected) -> str:
    items = "".join(
        f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in caveats(collected)
    )
    return items and section("Before you quote a number", "", f"<dl>{items}</dl>")
