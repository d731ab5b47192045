"""Tables of the page: finished runs, their scores, and failures."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from kdwatts.metrics.accuracy_kept import is_at_chance
from multirun_analysis.collect.labels import run_name
from multirun_analysis.figures.looks import hue_of
from multirun_analysis.figures.quality_kept import ABOVE_TEACHER
from multirun_analysis.importer.known import BENCHMARKS
from multirun_analysis.narrative.answer import energy_column
from multirun_analysis.report.html import escaped, facet, run_head, section, table
from multirun_analysis.statistics.accuracy_words import (
    AT_CHANCE,
    NOT_TOLD,
    at_chance_words,
    kept_words,
    missing_reasons,
)
from multirun_analysis.statistics.site import boundary_words, common_site, stated_sites
from multirun_analysis.values import units
from multirun_analysis.values.notices import Said, said_once, texts
from multirun_analysis.values.order import in_order, position
from multirun_analysis.values.rows import Row, distinct_students, grouped, known

_KEPT_SMALL = "95 %; OM_perf ± se"
_COLUMNS = {
    "Own energy": "± sd",
    "All in": "with inherited share",
    "Accuracy kept": _KEPT_SMALL,
    "Bits per byte": "student, teacher",
    "Decode, J/token": "student, teacher",
    "Training": "time, J/token",
    "CO2e": "at ",
}


def runs_section(runs: list[Row]) -> str:
    finished = [run for run in runs if run["finished"]]
    energy = energy_column(finished)
    finished.sort(key=lambda run: (run[energy] is None, run[energy]))
    if not finished:
        return ""
    site = common_site(distinct_students(finished))
    columns = _COLUMNS | {"CO2e": _COLUMNS["CO2e"] + (site.name if site else "each run's site")}
    heads = "".join(
        f"<th>{title}<small>{escape(small)}</small></th>" for title, small in columns.items()
    )
    notes = said_once(
        (run_name(run), note)
        for run in known(finished, "notes")
        for note in run["notes"].split("; ")
    )
    hue = hue_of(runs)
    return section(
        "Runs",
        "Finished runs, least energy first. A dash is a number that was not measured; sd is one "
        "standard deviation, se one standard error. CO2e is of own energy. All columns are in "
        "runs.csv.",
        table(
            f"<th>Run</th>{heads}",
            "".join(_run_row(run, hue(run["group"]), tells_site=not site) for run in finished),
        )
        + (f'<div class="sub">Notes. {texts(notes)}</div>' if notes else ""),
    )


def _run_row(run: Row, hue: str, *, tells_site: bool) -> str:
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
        (units.quantity(co2e_g, "g"), _site_words(run) if tells_site else None),
    ]
    columns = "".join(f"<td>{escape(text)}{_smalls(small)}</td>" for text, small in cells)
    return f"<tr{facet(run['run'])}>{run_head(run, hue)}{columns}</tr>"


def _smalls(text: str | None) -> str:
    """What stands below a number, a line for each."""
    return "".join(f"<small>{escape(line)}</small>" for line in (text or "").split("\n"))


def _plain(run: Row) -> str:
    """The plain ratio, which stands below accuracy kept; nothing where there is none."""
    if run["om_perf"] is None:
        return ""
    return f"OM_perf {units.with_error(run['om_perf'], run['om_perf_stderr'])}"


def _site_words(run: Row) -> str | None:
    """Whose electricity a run's CO2e is of, and the boundary of its factor; Methods say more."""
    words = (f"{site.name}, {boundary_words(site)}" for site in stated_sites([run]))
    return next(words, run["site"])


def _bits(run: Row) -> str:
    """What a teacher's number says of its weights where they were quantised."""
    return f", {run['teacher_quantization']}" if run["teacher_quantization"] else ""


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
    rows = in_order([run for run in runs if run["finished"] and run["run"] in scored])
    if not rows:
        return ""
    heads = "".join(
        f"<th>{escape(task)}<small>{escape(metrics[task])}</small></th>" for task in tasks
    )
    body, hue = "", hue_of(runs)
    for run in rows:
        cells = "".join(
            _score_cell(*(found.get((run["run"], task, s)) for s in ("student", "teacher")))
            for task in tasks
        )
        kept = f"<td>{escape(kept_words([run]))}{_smalls(_plain(run))}</td>"
        body += f"<tr{facet(run['run'])}>{run_head(run, hue(run['group']))}{kept}{cells}</tr>"
    notes = said_once(
        (run_name(run), reason) for reason, same in missing_reasons(rows).items() for run in same
    )
    marked = f" A marked score is {ABOVE_TEACHER}." if _ABOVE in body else ""
    if AT_CHANCE in body:
        marked += f" {AT_CHANCE}: less than two standard errors above what guessing scores."
    return section(
        "Scores",
        "One score of each benchmark, with one standard error. Accuracy kept is the mean of "
        "(student - chance) over (teacher - chance), of the benchmarks whose teacher is above "
        f"chance; without a teacher that was asked alike there is none.{marked}",
        table(f"<th>Run</th><th>Accuracy kept<small>{_KEPT_SMALL}</small></th>{heads}", body)
        + (f'<div class="sub">Accuracy kept {NOT_TOLD}. {texts(notes)}</div>' if notes else ""),
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


def unfinished_section(runs: list[Row]) -> str:
    """Each reason once, with all runs that ended by it."""
    hue = hue_of(runs)
    open_ = {run["run"]: run for run in runs if not run["finished"]}
    body = ""
    for state, same in grouped(open_.values(), "state").items():
        found = said_once((run["run"], run["reason"] or "") for run in same)
        body += "".join(_unfinished_row(state, said, open_, hue) for said in found)
    return body and section(
        "Failed and unfinished runs",
        "They are in no figure and in no mean.",
        table('<th>Run</th><th class="left">State</th><th class="left">Reason</th>', body),
        anchor="unfinished",
    )


def _unfinished_row(state: str, said: Said, runs: dict[str, Row], hue: Callable[[str], str]) -> str:
    first = runs[said.names[0]]
    head = run_head(first, hue(first["group"]))
    if said.list:
        named = ", ".join(f"{runs[name]['label']} ({name})" for name in said.names)
        head = (
            f'<th scope="row"><details class="said"><summary>{len(said.names)} runs</summary>'
            f"<small>{escape(named)}</small></details></th>"
        )
    return (
        f'<tr{facet(*said.names)}>{head}<td class="left"><span class="state">{escaped(state)}'
        f'</span></td><td class="words">{escape(said.sentence)}</td></tr>'
    )
