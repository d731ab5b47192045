"""The section of the page that says where imported runs come from."""

from __future__ import annotations

from html import escape

from multirun_analysis.figures.looks import hue_of
from multirun_analysis.narrative.imported_runs import format_of, source_of
from multirun_analysis.report.html import facet, run_head, section, table
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, known


def imported_section(runs: list[Row]) -> str:
    """Where imported runs come from, and what their records say about serving."""
    imported = known(runs, "origin")
    hue = hue_of(runs)
    body = "".join(_imported_row(run, hue(run["group"])) for run in imported)
    heads = (
        '<th>Run</th><th class="left">From</th><th>Energy counter<small>rescaled by</small></th>'
        "<th>Sampled every<small>mean, at most</small></th>"
        "<th>Served, J/token<small>student, teacher</small></th>"
    )
    records = " and ".join(dict.fromkeys(format_of(run["origin"]) for run in imported))
    return body and section(
        "Imported runs",
        f"Recorded elsewhere, by other software: {escape(records)}. Serving energy is as reported, "
        "all tokens together and without a trace: it is ranked with nothing. What else to know is "
        "at the end.",
        table(heads, body),
        anchor="imported",
    )


def _imported_row(run: Row, hue: str) -> str:
    correction = run["unit_correction"]
    served = [
        units.quantity(run[f"{subject}_total_j_per_token"], "J")
        for subject in ("student", "teacher")
    ]
    source = escape(source_of(run["origin"]))
    return (
        f'<tr{facet(run["run"])}>{run_head(run, hue)}<td class="words">{source}</td>'
        f"<td>{'as declared' if correction is None else f'{correction:g}'}</td>"
        f"<td>{units.quantity(run['sampling_mean_s'], 's')}"
        f"<small>{units.quantity(run['sampling_longest_s'], 's')}</small></td>"
        f"<td>{served[0]}<small>{served[1]}, {escape(run['inference_energy_quality'])}</small></td>"
        "</tr>"
    )
