"""Tables of the page: finished runs, their scores, where imported ones come from, and failures."""

from __future__ import annotations

from html import escape

from kdwatts.metrics.accuracy_kept import is_at_chance
from multirun_analysis import units
from multirun_analysis.accuracy import (
    AT_CHANCE,
    NOT_TOLD,
    at_chance_words,
    kept_words,
    why_not_told,
)
from multirun_analysis.answer import energy_column
from multirun_analysis.importer.known import BENCHMARKS
from multirun_analysis.kept import ABOVE_TEACHER
from multirun_analysis.marks import position
from multirun_analysis.page import escaped, facet, section, table
from multirun_analysis.palette import paradigm_color
from multirun_analysis.rows import Row, known

_KEPT_SMALL = "95 %; OM_perf ± se"
_COLUMNS = {
    "Own energy": "± sd",
    "All in": "with inherited share",
    "Accuracy kept": _KEPT_SMALL,
    "Bits per byte": "student, teacher",
    "Decode, J/token": "student, teacher",
    "Training": "time, J/token",
    "CO2e": "own energy",
}


def runs_section(runs: list[Row]) -> str:
    finished = [run for run in runs if run["finished"]]
    energy = energy_column(finished)
    finished.sort(key=lambda run: (run[energy] is None, run[energy]))
    if not finished:
        return ""
    heads = "".join(f"<th>{title}<small>{small}</small></th>" for title, small in _COLUMNS.items())
    notes = "; ".join(f"{run['run']}: {run['notes']}" for run in known(finished, "notes"))
    return section(
        "Runs",
        "Finished runs, least energy first. A dash is a number that was not measured; sd is one "
        "standard deviation, se one standard error. All columns are in runs.csv.",
        table(f"<th>Run</th>{heads}", "".join(_run_row(run) for run in finished))
        + (f'<p class="sub">Notes. {escape(notes)}.</p>' if notes else ""),
    )


def _run_row(run: Row) -> str:
    co2e_g = None if run["co2e_kg"] is None else 1000 * run["co2e_kg"]
    own = units.energy(run["own_energy_j"], error_j=run["own_energy_uncertainty_j"])
    cells = [
        (own, run["own_energy_quality"]),
        (units.energy(run["total_amortised_energy_j"]), run["total_energy_quality"]),
        (kept_words([run]), "\n".join(filter(None, (_plain(run), at_chance_words([run]))))),
        (units.number(run["student_bits_per_byte"]), units.number(run["teacher_bits_per_byte"])),
        (
            units.quantity(run["student_decode_j_per_token"], "J"),
            units.quantity(run["teacher_decode_j_per_token"], "J") + _bits(run),
        ),
        (
            units.duration(run["train_duration_s"]),
            units.quantity(run["train_j_per_token"], "J/token"),
        ),
        (units.quantity(co2e_g, "g"), run["site"]),
    ]
    columns = "".join(f"<td>{escape(text)}{_smalls(small)}</td>" for text, small in cells)
    return f"<tr{facet(run['run'])}>{_run_head(run)}{columns}</tr>"


def _smalls(text: str | None) -> str:
    """What stands below a number, a line for each."""
    return "".join(f"<small>{escape(line)}</small>" for line in (text or "").split("\n"))


def _plain(run: Row) -> str:
    """The plain ratio, which stands below accuracy kept; nothing where there is none."""
    if run["om_perf"] is None:
        return ""
    return f"OM_perf {units.with_error(run['om_perf'], run['om_perf_stderr'])}"


def _bits(run: Row) -> str:
    """What a teacher's number says of its weights where they were quantised."""
    return f", {run['teacher_quantization']}" if run["teacher_quantization"] else ""


def _run_head(run: Row) -> str:
    return (
        f'<th scope="row"><span class="dot" style="--hue:{paradigm_color(run["paradigm"])}"></span>'
        f"{escape(run['label'])}<small>{escape(run['run'])}</small></th>"
    )


def scores_section(runs: list[Row], scores: list[Row]) -> str:
    """The scores behind accuracy kept, also where nothing may be divided by the teacher's."""
    found = {
        (score["run"], score["task"], score["subject"]): score
        for score in scores
        if score["value"] is not None and _is_primary(score)
    }
    metrics = {key[1]: score["metric"] for key, score in found.items()}
    order = list(BENCHMARKS)
    tasks = sorted(metrics, key=lambda task: (position(order, task), task))
    scored = {key[0] for key in found}
    rows = [run for run in runs if run["finished"] and run["run"] in scored]
    if not rows:
        return ""
    heads = "".join(
        f"<th>{escape(task)}<small>{escape(metrics[task])}</small></th>" for task in tasks
    )
    body = ""
    for run in rows:
        cells = "".join(
            _score_cell(*(found.get((run["run"], task, s)) for s in ("student", "teacher")))
            for task in tasks
        )
        kept = f"<td>{escape(kept_words([run]))}{_smalls(_plain(run))}</td>"
        body += f"<tr{facet(run['run'])}>{_run_head(run)}{kept}{cells}</tr>"
    notes = [f"{_names(same)}: {reason}." for reason, same in why_not_told(rows).items()]
    marked = f" A marked score is {ABOVE_TEACHER}." if _ABOVE in body else ""
    if AT_CHANCE in body:
        marked += f" {AT_CHANCE}: less than two standard errors above what guessing scores."
    return section(
        "Scores",
        "One score of each benchmark, with one standard error. Accuracy kept is the mean of "
        "(student - chance) over (teacher - chance), of the benchmarks whose teacher is above "
        f"chance; without a teacher that was asked alike there is none.{marked}",
        table(f"<th>Run</th><th>Accuracy kept<small>{_KEPT_SMALL}</small></th>{heads}", body)
        + (
            f'<p class="sub">Accuracy kept {NOT_TOLD}. {escape(" ".join(notes))}</p>'
            if notes
            else ""
        ),
    )


def _is_primary(score: Row) -> bool:
    """Whether a score is of the metric that counts: it has a chance level, or is known to count."""
    known_ = BENCHMARKS.get(score["task"])
    return score.get("chance") is not None or (
        known_ is not None and score["metric"] == known_.metric
    )


_ABOVE = '<small class="above">'


def _score_cell(mine: Row | None, its: Row | None) -> str:
    """The student's score and below it the teacher's, marked where the student passes it."""
    score = units.MISSING if mine is None else units.with_error(mine["value"], mine["stderr"])
    score += (chance := _chance_mark(mine))
    if its is None:
        return f"<td>{score}</td>"
    beside = f"teacher {units.number(its['value'])}{_chance_mark(its)}"
    if mine is None or chance or mine["value"] <= its["value"]:
        return f"<td>{score}<small>{beside}</small></td>"
    ratio = f", {units.significant(mine['value'] / its['value'])} times it" if its["value"] else ""
    return f"<td>{score}{_ABOVE}{beside}{ratio}</small></td>"


def _chance_mark(score: Row | None) -> str:
    if score is None or not is_at_chance(score["value"], score["stderr"], score.get("chance")):
        return ""
    return f' <span class="chance">{AT_CHANCE}</span>'


def _names(runs: list[Row]) -> str:
    return ", ".join(run["run"] for run in runs)


def imported_section(runs: list[Row]) -> str:
    """Where imported runs come from, and what their records say about serving."""
    body = "".join(_imported_row(run) for run in known(runs, "origin"))
    heads = (
        '<th>Run</th><th class="left">Origin</th><th>Energy counter<small>rescaled by</small></th>'
        "<th>Sampled every<small>mean, at most</small></th>"
        "<th>Served, J/token<small>student, teacher</small></th>"
    )
    return body and section(
        "Imported runs",
        "Recorded elsewhere, by other software. Serving energy is as reported, all tokens together "
        "and without a trace: it is ranked with nothing. What else to know is at the end.",
        table(heads, body),
        anchor="imported",
    )


def _imported_row(run: Row) -> str:
    correction = run["unit_correction"]
    served = [
        units.quantity(run[f"{subject}_total_j_per_token"], "J")
        for subject in ("student", "teacher")
    ]
    return (
        f'<tr{facet(run["run"])}>{_run_head(run)}<td class="words">{escape(run["origin"])}</td>'
        f"<td>{'as declared' if correction is None else f'{correction:g}'}</td>"
        f"<td>{units.quantity(run['sampling_mean_s'], 's')}"
        f"<small>{units.quantity(run['sampling_longest_s'], 's')}</small></td>"
        f"<td>{served[0]}<small>{served[1]}, {escape(run['inference_energy_quality'])}</small></td>"
        "</tr>"
    )


def unfinished_section(runs: list[Row]) -> str:
    body = "".join(_unfinished_row(run) for run in runs if not run["finished"])
    return body and section(
        "Failed and unfinished runs",
        "They are in no figure and in no mean.",
        table('<th>Run</th><th class="left">State</th><th class="left">Reason</th>', body),
        anchor="unfinished",
    )


def _unfinished_row(run: Row) -> str:
    state = f'<span class="state">{escaped(run["state"])}</span>'
    return (
        f'<tr{facet(run["run"])}>{_run_head(run)}<td class="left">{state}</td>'
        f'<td class="words">{escaped(run["reason"])}</td></tr>'
    )
