"""The sections of the page: each a heading, how to read it, figures and their numbers."""

from __future__ import annotations

from html import escape

import pandas as pd

from multirun_analysis.collect.collection import Collected
from multirun_analysis.figures.accuracy_against_energy import ACCURACY_KEPT, BITS_PER_BYTE
from multirun_analysis.figures.by_stage import energy_by_stage
from multirun_analysis.figures.curves import loss_curves, loss_terms
from multirun_analysis.figures.devices import devices_over_time
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.idle import idle_words
from multirun_analysis.figures.looks import hue_of
from multirun_analysis.figures.palette import stage_words
from multirun_analysis.narrative.caveats import caveat_parts
from multirun_analysis.report.cells import numbers
from multirun_analysis.report.html import facet, radio, row_head, section, select, slot, table
from multirun_analysis.statistics.accuracy_words import KEPT, NOT_TOLD, why_not_told
from multirun_analysis.statistics.comparison_words import comparison_words, verdict_note
from multirun_analysis.statistics.comparisons import (
    COLUMNS,
    Comparison,
    against_baseline,
    told_columns,
)
from multirun_analysis.statistics.draws import draws_of
from multirun_analysis.statistics.seeds import stage_energies, top_windows
from multirun_analysis.values.notices import texts
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows

MAX_DEVICE_RUNS = 24
"""Runs whose devices are drawn over time: at some 50 kB each the page stays a few megabytes."""
MAX_COMPARISONS = 60

Exhibits = dict[str, Exhibit]


def exhibit_section(shown: Exhibits, *names: str, title: str) -> str:
    """A section of some exhibits side by side, without those that have nothing to show."""
    found = {name: shown[name] for name in names if name in shown}
    if not found:
        return ""
    notes = " ".join(dict.fromkeys(exhibit.note for exhibit in found.values()))
    body = "".join(
        f'<div class="exhibit">{panel(exhibit, name=name)}</div>' for name, exhibit in found.items()
    )
    return section(
        title, escape(notes), f'<div class="pair">{body}</div>' if len(found) > 1 else body
    )


def panel(exhibit: Exhibit, *, name: str) -> str:
    """A figure, and below it its numbers."""
    return slot(exhibit.title, {"0": exhibit.figure}) + numbers(exhibit.table, name=name)


def quality_section(runs: pd.DataFrame, shown: Exhibits) -> str:
    """Accuracy kept, and held-out text, against energy with and without what was inherited."""
    energies = {
        "total_amortised_energy_j": "With its share of inherited work",
        "total_energy_j": "With all inherited work",
        "own_energy_j": "Own energy alone",
    }
    qualities = {
        ACCURACY_KEPT.column: "Accuracy kept: higher is better",
        BITS_PER_BYTE.column: "Held-out text: lower is better",
    }
    energies = {
        energy: words
        for energy, words in energies.items()
        if any(f"{column}_against_{energy}" in shown for column in qualities)
    }
    panels = []
    for column, title in qualities.items():
        found = {
            energy: shown[name]
            for energy in energies
            if (name := f"{column}_against_{energy}") in shown
        }
        if found:
            name, exhibit = f"{column}_against_{next(iter(found))}", next(iter(found.values()))
            figures = {energy: exhibit.figure for energy, exhibit in found.items()}
            panels.append(
                f'<div class="exhibit">{slot(title, figures)}{numbers(exhibit.table, name=name)}'
                "</div>"
            )
    if not panels:
        return ""
    students = distinct_students(runs)
    drawn = [run for run in students if any(known([run], column) for column in qualities)]
    told = known(students, KEPT)
    reasons = "" if told else "; ".join(why_not_told(students))
    kinds = {run["total_energy_quality"] for run in students}
    opened = " Open circles are not measured." if kinds & {"estimated", "mixed"} else ""
    opened += " Squares are imported." if known(drawn, "origin") else ""
    if num_apart := len(students) - len(drawn):
        opened += f" Without a score to draw: {num_apart}."
    if reasons:
        opened += f" There is no figure of accuracy kept, which {NOT_TOLD}: {reasons}."
    return section(
        "Accuracy against energy" if told else "Held-out text against energy",
        f"Circles are runs, diamonds are means over {draws_of(drawn)}; lines are intervals, 95 % "
        "those of quality and of means, and may leave the figure. The dotted line joins the "
        f"students that no other beats on both counts.{escape(opened)}",
        radio("energy", energies) + f'<div class="pair">{"".join(panels)}</div>',
    )


def comparison_section(runs: pd.DataFrame) -> str:
    """Each setting against fine-tuning, seed by seed, in words: also what is within noise."""
    body, left_out, hue = "", 0, hue_of(to_rows(runs))
    for column in told_columns(runs):
        about, found = COLUMNS[column], against_baseline(runs, [column])
        left_out += max(0, len(found) - MAX_COMPARISONS)
        rows = "".join(
            f"<tr{facet(c.group)}>{row_head(c.label, hue(c.group))}"
            f'<td class="words"><span class="verdict {_verdict_class(c)}">{c.verdict}</span> '
            f"{escape(_after_head(comparison_words(c)))}</td></tr>"
            for c in found[:MAX_COMPARISONS]
        )
        if rows:
            heads = '<th>Setting</th><th class="left">Verdict and difference</th>'
            title = f"{about.words[:1].upper()}{about.words[1:]}"
            body += f"<h3>{escape(title)}</h3>{table(heads, rows)}"
    more = f" {left_out} more are in tables/comparisons.csv." if left_out else ""
    return body and section(
        "Against plain fine-tuning",
        "Differences of runs with one seed and equal tokens, less the sft run of that seed: mean "
        "with its 95 % interval, and the p of a paired t-test, corrected for all settings in a "
        f"table (Holm 1979). {verdict_note()}{more}",
        body,
    )


def _verdict_class(c: Comparison) -> str:
    return "same" if c.is_same else c.verdict.replace(" ", "-")


def _after_head(words: str) -> str:
    """The sentence without what the table's other columns say."""
    return words.partition(". ")[2] or words


def stage_section(runs: pd.DataFrame, stages: pd.DataFrame, shown: Exhibits) -> str:
    """Energy by stage; runs of ours and imported ones apart, as one may dwarf the other."""
    finished = runs.loc[runs["finished"]]
    windows = [w for w in top_windows(to_rows(stages)) if w["run"] in set(finished["run"])]
    if not windows or "energy_by_stage" not in shown:
        return ""
    drawn = {(part["run"], part["stage"]) for part in stage_energies(to_rows(finished), windows)}
    absent = {stage_words(w["stage"]) for w in windows if (w["run"], w["stage"]) not in drawn}
    note = f" Not recorded in some runs: {escape(', '.join(sorted(absent)))}." if absent else ""
    exhibit = shown["energy_by_stage"]
    ours = finished["origin"].isna()
    figures, choices = {"0": exhibit.figure}, {}
    if ours.any() and not ours.all():
        apart = {"Runs of ours": finished.loc[ours], "Imported runs": finished.loc[~ours]}
        figures = {str(i): energy_by_stage(t, stages).figure for i, t in enumerate(apart.values())}
        choices = dict(zip(figures, apart, strict=True))
    return section(
        "Where the energy went",
        f"{escape(exhibit.note)}{note}",
        (radio("origin", choices) if choices else "")
        + slot("Energy by stage", figures)
        + numbers(exhibit.table, name="energy_by_stage"),
    )


def expense_section(shown: Exhibits) -> str:
    """Idle power, waiting and utilisation; in words where they made a method expensive."""
    name = "idle_and_wait"
    if name not in shown:
        return ""
    words = "".join(f"<li>{escape(text)}</li>" for text in idle_words(shown[name].table))
    return section(
        "Why a method was expensive",
        escape(shown[name].note),
        (f'<ul class="findings">{words}</ul>' if words else "") + panel(shown[name], name=name),
    )


def devices_section(runs: list[Row], collected: Collected) -> str:
    """Power, utilisation, temperature and joules of each device over the stages of one run."""
    traced = set(collected.telemetry.runs)
    shown = in_order([run for run in runs if run["run"] in traced])
    if not shown:
        return ""
    note = ""
    if len(shown) > MAX_DEVICE_RUNS:
        note = f" {len(shown) - MAX_DEVICE_RUNS} more runs have telemetry: see the notebooks."
        # One of each setting comes before further seeds.
        turns = [
            (i, run) for rows in grouped(shown, "group").values() for i, run in enumerate(rows)
        ]
        shown = [run for _, run in sorted(turns, key=lambda turn: turn[0])][:MAX_DEVICE_RUNS]
    drawn = [
        devices_over_time(collected.telemetry.of(run["run"]), collected.stages, run=run["run"])
        for run in shown
    ]
    labels = [r["label"] + ("" if r["finished"] else f" ({r['state']}, {r['run']})") for r in shown]
    figures = {str(i): exhibit.figure for i, exhibit in enumerate(drawn)}
    return section(
        "Devices over time",
        f"{escape(max((exhibit.note for exhibit in drawn), key=len))}{note} The numbers are in "
        "telemetry.parquet.",
        select("Run", labels) + slot("Power, utilisation, temperature and joules", figures),
    )


def loss_section(runs: pd.DataFrame, train: pd.DataFrame, shown: Exhibits) -> str:
    """Each term of the loss; the whole first."""
    terms = loss_terms(train)
    if not terms or not distinct_students(runs) or "loss_curves" not in shown:
        return ""
    drawn = [loss_curves(train, runs, term=term) for term in terms]
    figures = {str(i): exhibit.figure for i, exhibit in enumerate(drawn)}
    names = {str(i): stage_words(term.removesuffix("_nats")) for i, term in enumerate(terms)}
    return section(
        "Training loss",
        escape(shown["loss_curves"].note),
        radio("term", names)
        + slot("Loss over training", figures)
        + numbers(drawn[0].table, name="loss_curves"),
    )


def caveats_section(collected: Collected) -> str:
    """Methods and reservations, as the manifests and records tell them."""
    items = "".join(
        f"<dt>{escape(title)}</dt><dd>{texts(parts)}</dd>"
        for title, parts in caveat_parts(collected)
    )
    return items and section(
        "Methods, and before you quote a number", "", f"<dl>{items}</dl>", anchor="methods"
    )
