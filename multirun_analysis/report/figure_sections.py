"""The sections of figures: which are drawn, and what the sentences above them need to know."""

from __future__ import annotations

from multirun_analysis.figures.accuracy_against_energy import ACCURACY_KEPT, BITS_PER_BYTE
from multirun_analysis.figures.by_stage import energy_by_stage
from multirun_analysis.figures.curves import loss_curves, loss_terms
from multirun_analysis.figures.devices_over_time import devices_over_time
from multirun_analysis.figures.idle import idle_words
from multirun_analysis.figures.palette import stage_words
from multirun_analysis.figures.waiting_nodes import waiting_words
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.accuracy_words import KEPT, missing_reasons
from multirun_analysis.statistics.seeds import draws_of, stage_energies, top_windows
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import grouped, known, to_rows

MAX_DEVICE_RUNS = 24
"""Runs whose devices are drawn over time: at some 50 kB each the page stays a few megabytes."""


def exhibits(study: Study, title: str, *names: str) -> Values | None:
    """Some exhibits side by side, without those that have nothing to show."""
    found = {name: study.shown[name] for name in names if name in study.shown}
    notes = dict.fromkeys(exhibit.note for exhibit in found.values())
    return {"title": title, "exhibits": found, "notes": list(notes)} if found else None


def quality(study: Study) -> Values | None:
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
    panels, shown = [], study.shown
    for column, title in qualities.items():
        names = {energy: f"{column}_against_{energy}" for energy in energies}
        names = {energy: name for energy, name in names.items() if name in shown}
        if names:
            figures = {energy: shown[name].figure for energy, name in names.items()}
            first = next(iter(names.values()))
            panels.append({"title": title, "figures": figures, "name": first})
    if not panels:
        return None
    students = study.students
    drawn = [run for run in students if any(known([run], column) for column in qualities)]
    kinds = {run["total_energy_quality"] for run in students}
    chosen = {energy for panel in panels for energy in panel["figures"]}
    return {
        "panels": [panel | {"table": shown[panel["name"]].table} for panel in panels],
        "energies": {energy: words for energy, words in energies.items() if energy in chosen},
        "has_accuracy_kept": bool(known(students, KEPT)),
        "why_none": "; ".join(missing_reasons(students)),
        "draws": draws_of(drawn),
        "is_measured": not kinds & {"estimated", "mixed"},
        "has_imported": bool(known(drawn, "origin")),
        "num_apart": len(students) - len(drawn),
    }


def stages(study: Study) -> Values | None:
    """Energy by stage; runs of ours and imported ones apart, as one may dwarf the other."""
    runs, exhibit = study.runs, study.shown.get("energy_by_stage")
    finished = runs.loc[runs["finished"]]
    all_stages = study.collected.stages
    windows = [w for w in top_windows(to_rows(all_stages)) if w["run"] in set(finished["run"])]
    if not windows or exhibit is None:
        return None
    drawn = {(part["run"], part["stage"]) for part in stage_energies(to_rows(finished), windows)}
    absent = {stage_words(w["stage"]) for w in windows if (w["run"], w["stage"]) not in drawn}
    ours = finished["origin"].isna()
    figures, origins = {"0": exhibit.figure}, {}
    if ours.any() and not ours.all():
        apart = {"Runs of kdwatts": finished.loc[ours], "Imported runs": finished.loc[~ours]}
        origins = {str(i): origin for i, origin in enumerate(apart)}
        figures = {i: energy_by_stage(apart[origins[i]], all_stages).figure for i in origins}
    return {"exhibit": exhibit, "figures": figures, "origins": origins, "absent": sorted(absent)}


def why(study: Study) -> Values | None:
    """Idle power, waiting and utilisation; in words where they made a method expensive."""
    words = {"idle_and_wait": idle_words, "waiting_nodes": waiting_words}
    found = {name: study.shown[name] for name in words if name in study.shown}
    reasons = [text for name, exhibit in found.items() for text in words[name](exhibit.table)]
    return {"exhibits": found, "reasons": reasons} if found else None


def devices(study: Study) -> Values | None:
    """Power, utilisation, temperature and joules of each device over the stages of one run."""
    telemetry = study.collected.telemetry
    traced = set(telemetry.runs)
    shown = in_order([run for run in study.rows if run["run"] in traced])
    if not shown:
        return None
    num_apart = max(0, len(shown) - MAX_DEVICE_RUNS)
    if num_apart:
        # One of each setting comes before further seeds.
        turns = [turn for rows in grouped(shown, "group").values() for turn in enumerate(rows)]
        shown = [run for _, run in sorted(turns, key=lambda turn: turn[0])][:MAX_DEVICE_RUNS]
    drawn = [
        devices_over_time(telemetry.of(run["run"]), study.collected.stages, run=run["run"])
        for run in shown
    ]
    return {
        "runs": shown,
        "figures": {str(i): exhibit.figure for i, exhibit in enumerate(drawn)},
        "note": max((exhibit.note for exhibit in drawn), key=len),
        "num_apart": num_apart,
    }


def loss(study: Study) -> Values | None:
    """Each term of the loss; the whole first."""
    runs, train, exhibit = study.runs, study.collected.train, study.shown.get("loss_curves")
    terms = loss_terms(train)
    if not terms or not study.students or exhibit is None:
        return None
    drawn = [loss_curves(train, runs, term=term) for term in terms]
    return {
        "note": exhibit.note,
        "terms": {str(i): stage_words(term.removesuffix("_nats")) for i, term in enumerate(terms)},
        "figures": {str(i): one.figure for i, one in enumerate(drawn)},
        "table": drawn[0].table,
    }
