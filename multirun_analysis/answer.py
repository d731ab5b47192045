"""The answer in words, derived from the runs: which student, at what energy, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

import pandas as pd

from multirun_analysis import units
from multirun_analysis.metrics import Interval, over_seeds
from multirun_analysis.pareto import CLASSES, energy_class, quality_of
from multirun_analysis.plots import BITS_PER_BYTE, OM_PERF, Quality
from multirun_analysis.rows import Row, distinct_students, grouped, known

_BITS = BITS_PER_BYTE.column

_WARNINGS = {
    "mixed": "These energies are sums of measured and estimated parts: no measurement.",
    "estimated": "These energies are estimates from processor load and rated power: no sensor was "
    "readable. They may compare methods on one machine; they are no measurement of it.",
    "missing": "The energy of these runs is unknown.",
}


@dataclass(frozen=True)
class Card:
    """One candidate: a question, the student that answers it, its figure, what stands beside it."""

    question: str
    student: str
    paradigm: str
    figure: str
    detail: str


@dataclass(frozen=True)
class Answer:
    """The page's first screen. Plain text, not escaped."""

    headline: str
    sureness: list[str]
    warning: str | None
    """What the numbers are not, where they are no measurement."""
    cards: list[Card]


def energy_column(students: list[Row]) -> str:
    """The energy that answers: with a share of inherited work, or own where that is unknown."""
    column = "total_amortised_energy_j"
    return column if len(known(students, column)) == len(students) else "own_energy_j"


@dataclass(frozen=True)
class _Setting:
    """All students that differ by their seed alone."""

    label: str
    students: list[Row]
    value: Interval
    energy: Interval | None


def answer(runs: pd.DataFrame) -> Answer:
    """The best setting by quality, with the least energy to build and to serve beside it.

    Measured students go before estimated ones; the two are never ranked against each other.
    """
    students = distinct_students(runs)
    if not students:
        text = f"{len(runs)} runs were found; each is listed below with its reason."
        return Answer("No run has finished yet.", [text], None, [])
    scored = [run for run in students if known([run], "om_perf") or known([run], _BITS)]
    candidates = scored or students
    energy = energy_column(candidates)
    kinds = [energy_class(run[quality_of(energy)]) for run in candidates]
    kind = min(kinds, key=CLASSES.index)
    ranked = [run for run, found in zip(candidates, kinds, strict=True) if found == kind]
    sure = [_energy_words(ranked, kind, energy)]
    if apart := len(candidates) - len(ranked):
        sure.append(f"Left out of this ranking, as their energy is not {kind}: {apart}.")
    if apart := len(students) - len(candidates):
        sure.append(f"Left out of this ranking, as no score places them: {apart}.")
    if imported := len(known(students, "origin")):
        sure.append(f"Imported, recorded elsewhere by other software: {imported}.")
    if not scored:
        words = ", none was evaluated: no advice follows"
        if known(students, "om_perf_reason"):
            words = ", and no score of theirs can be set beside their teacher's"
        text = f"{len(students)} students were built{words}."
        frugal = _least_energy(ranked, energy)
        return Answer(text, sure, _WARNINGS.get(kind), [frugal] if frugal else [])
    quality = OM_PERF if known(ranked, "om_perf") else BITS_PER_BYTE
    settings = _ranked_settings(ranked, energy, quality)
    sure.insert(0, _quality_words(settings, quality))
    headline = _headline(settings, quality, note="" if kind == "measured" else f", {kind}")
    return Answer(headline, sure, _WARNINGS.get(kind), _cards(settings, quality))


def _ranked_settings(students: list[Row], energy: str, quality: Quality) -> list[_Setting]:
    """The settings that were evaluated, the best first."""
    values, energies = over_seeds(students, quality.column), over_seeds(students, energy)
    groups = grouped(students, "group")
    settings = [
        _Setting(groups[group][0]["group_label"], groups[group], value, energies.get(group))
        for group, value in values.items()
    ]
    sign = -1 if quality.higher_is_better else 1
    return sorted(settings, key=lambda setting: sign * setting.value.mean)


def _headline(settings: list[_Setting], quality: Quality, *, note: str) -> str:
    """The best setting and its cost, and a cheaper one that the seeds do not tell from it."""
    best, *others = settings
    words = "predicts held-out text best"
    if quality is OM_PERF:
        words = f"keeps {_percent(best.value)} of its teacher's accuracy"
    text = f"{best.label[:1].upper()}{best.label[1:]} {words}"
    if best.energy is None:
        return f"{text}."
    text += f" for {units.energy(best.energy.mean)}{note}"
    for other in others:
        cheaper = other.energy and other.energy.mean < 0.95 * best.energy.mean
        if other.energy and cheaper and _overlap(best.value, other.value):
            score = _percent(other.value) if quality is OM_PERF else _score(other.value, quality)
            return f"{text}; {other.label} {score} for {units.energy(other.energy.mean)}{note}."
    return f"{text}."


def _overlap(one: Interval, other: Interval) -> bool:
    if one.half_width is None or other.half_width is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _cards(settings: list[_Setting], quality: Quality) -> list[Card]:
    """The best setting, the cheapest one, and what serving the best takes."""
    best = settings[0]
    cards = [_card("Most accurate", best, _score(best.value, quality), _cost(best))]
    costed = [setting for setting in settings if setting.energy]
    if costed:
        frugal = min(costed, key=lambda s: s.energy.mean if s.energy else 0.0)
        score = _score(frugal.value, quality)
        cards.append(_card("Least energy to build", frugal, _cost(frugal), score))
    student_j = _mean(best, "student_total_j_per_token")
    if student_j:
        figure = units.quantity(student_j, "J/token")
        cards.append(
            _card("Serving the most accurate", best, figure, _serving_detail(best, student_j))
        )
    return cards


def _serving_detail(setting: _Setting, student_j: float) -> str:
    """What stands beside the joules per token; a reported figure is compared with none."""
    if any(run["inference_energy_quality"] == "reported" for run in setting.students):
        return "prompt and answer together, as reported, without a trace"
    teacher_j = _mean(setting, "teacher_total_j_per_token")
    if not teacher_j:
        return "prompt and answer together"
    times = units.significant(teacher_j / student_j, 2)
    return f"its teacher takes {units.quantity(teacher_j, 'J/token')}, {times} times that"


def _least_energy(students: list[Row], energy: str) -> Card | None:
    """The cheapest of students that no score compares."""
    means = over_seeds(students, energy)
    if not means:
        return None
    group = min(means, key=lambda group: means[group].mean)
    same = grouped(students, "group")[group]
    setting = _Setting(same[0]["group_label"], same, means[group], means[group])
    return _card("Least energy to build", setting, _cost(setting), "its accuracy is not compared")


def _card(question: str, setting: _Setting, figure: str, detail: str) -> Card:
    paradigm = str(setting.students[0]["paradigm"] or "unknown")
    return Card(question, setting.label, paradigm, figure, detail)


def _mean(setting: _Setting, column: str) -> float | None:
    values = [run[column] for run in known(setting.students, column)]
    return fmean(values) if values else None


def _cost(setting: _Setting) -> str:
    if setting.energy is None:
        return "energy unknown"
    joules = units.energy(setting.energy.mean, error_j=setting.energy.half_width)
    return f"{joules} ({units.watt_hours(setting.energy.mean)})"


def _percent(value: Interval) -> str:
    return f"{units.significant(100 * value.mean)} %"


def _score(value: Interval, quality: Quality) -> str:
    shown = units.with_error(value.mean, value.half_width)
    return f"OM_perf {shown}" if quality is OM_PERF else f"{shown} bits/byte"


def _quality_words(settings: list[_Setting], quality: Quality) -> str:
    """How sure the first place is: its interval, and the runner-up's."""
    best = settings[0]
    text = f"{_score(best.value, quality)}, 95 % interval over {best.value.num_values} seeds"
    if best.value.half_width is None:
        stderr = best.students[0].get(quality.stderr)
        spread = ", one standard error over benchmark samples" if stderr else ""
        text = (
            f"{_score(Interval(best.value.mean, stderr, 1), quality)}{spread}, from a single seed"
        )
    if len(settings) == 1:
        return f"{text}. There is no other setting to compare with."
    second = settings[1]
    if best.value.half_width is None or second.value.half_width is None:
        verdict = "One seed cannot tell whether this order holds."
    elif _overlap(best.value, second.value):
        verdict = "The intervals overlap: these seeds do not settle which is better."
    else:
        verdict = "The intervals do not overlap: the first place holds."
    runner_up = f"the runner-up, {second.label}, has {_score(second.value, quality)}"
    return f"{text}; {runner_up}. {verdict}"


def _energy_words(students: list[Row], kind: str, energy: str) -> str:
    shares = [
        run["own_energy_uncertainty_j"] / run["own_energy_j"]
        for run in known(students, "own_energy_uncertainty_j", "own_energy_j")
        if run["own_energy_j"] > 0
    ]
    sigma = f", ± {units.significant(100 * median(shares), 2)} % (one sigma)" if shares else ""
    scope = "building the student alone; what it inherited is unknown for some"
    if energy == "total_amortised_energy_j":
        scope = "building the student and its share of the work it inherited"
    return f"Energy is {kind}{sigma}. It covers {scope}."
