"""The tables of runs: finished ones, imported ones, and those that failed or did not finish."""

from __future__ import annotations

from multirun_analysis.collect.labels import run_name
from multirun_analysis.narrative.answer import energy_column
from multirun_analysis.narrative.imported_runs import format_of, source_of
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.accuracy_words import at_chance_words, kept_words
from multirun_analysis.statistics.loop_words import loop_label
from multirun_analysis.statistics.site import boundary_words, common_site, stated_sites
from multirun_analysis.values.notices import notices_of
from multirun_analysis.values.rows import Row, distinct_students, grouped, known


def runs(study: Study) -> Values | None:
    """Finished runs, least energy first, and what their records leave open."""
    finished = [run for run in study.rows if run["finished"]]
    if not finished:
        return None
    energy = energy_column(finished)
    finished.sort(key=lambda run: (run[energy] is None, run[energy]))
    notes = notices_of(
        (run_name(run), note)
        for run in known(finished, "notes")
        for note in run["notes"].split("; ")
    )
    return {
        "runs": [run | _words(run) for run in finished],
        "site": common_site(distinct_students(finished)),
        "notes": notes,
        "loop_label": loop_label(finished),
    }


def _words(run: Row) -> Values:
    """Accuracy kept, CO2e in grams, and whose electricity that is of: Methods say more."""
    sites = (f"{site.name}, {boundary_words(site)}" for site in stated_sites([run]))
    return {
        "kept_words": kept_words([run]),
        "at_chance_words": at_chance_words([run]),
        "co2e_g": None if run["co2e_kg"] is None else 1000 * run["co2e_kg"],
        "site_words": next(sites, run["site"]),
    }


def imported(study: Study) -> Values | None:
    """Where imported runs come from, and what their records say about serving."""
    found = [run | {"source": source_of(run["origin"])} for run in known(study.rows, "origin")]
    records = dict.fromkeys(format_of(run["origin"]) for run in found)
    return {"runs": found, "records": list(records)} if found else None


def unfinished(study: Study) -> Values | None:
    """Each reason once, with all runs that ended by it."""
    by_name = {run["run"]: run for run in study.rows if not run["finished"]}
    endings = [
        {"state": state, "reason": notice.sentence, "runs": [by_name[n] for n in notice.names]}
        for state, same in grouped(by_name.values(), "state").items()
        for notice in notices_of((run["run"], run["reason"] or "") for run in same)
    ]
    return {"endings": endings} if endings else None
