"""The answer in words, derived from the runs: which student, at what energy, how sure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import pandas as pd

from kdwatts.metrics.quantity import Quantity, ratio
from multirun_analysis.figures.accuracy_against_energy import ACCURACY_KEPT, BITS_PER_BYTE, Quality
from multirun_analysis.statistics.accuracy_words import (
    AT_CHANCE,
    KEPT,
    NOT_TOLD,
    MeanInterval,
    at_chance_words,
    is_at_chance,
    mean_interval_of,
    missing_reasons,
    names_of,
    share_and_ends,
    share_words,
)
from multirun_analysis.statistics.comparisons import Comparison, every_pair
from multirun_analysis.statistics.loop_words import loop_label
from multirun_analysis.statistics.pareto import CLASSES, energy_class, quality_of
from multirun_analysis.statistics.seeds import draws_words, over_seeds
from multirun_analysis.statistics.served import served
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, grouped, known

_BITS = BITS_PER_BYTE.column
INHERITED = "Several students inherit the same work: data, teacher signals, teacher training."
MAX_LABELS = 8
"""Settings that a sentence names."""

_WARNINGS = {
    "mixed": "These energies add measured and estimated parts. They are not measurements.",
    "estimated": "For these students no energy sensor could be read. Their energies are estimates "
    "from processor load and rated power. Use them to compare methods on one machine, not as "
    "measurements.",
    "missing": "The energy of these runs is unknown.",
}


@dataclass(frozen=True)
class Highlight:
    """One candidate: a question, the student that answers it, its figure, what stands beside it."""

    question: str
    student: str
    group: str
    """The setting that it is of."""
    figure: str
    detail: str


@dataclass(frozen=True)
class Answer:
    """The page's first screen. Plain text, not escaped."""

    headline: str
    sureness: list[str]
    warning: str | None
    """What the numbers are not, where they are no measurement."""
    highlights: list[Highlight]


def energy_column(students: list[Row]) -> str:
    """The energy that answers: with a share of inherited work, or own where that is unknown."""
    column = "total_amortised_energy_j"
    return column if len(known(students, column)) == len(students) else "own_energy_j"


@dataclass(frozen=True)
class _Setting:
    """All students that differ by their seed alone."""

    label: str
    students: list[Row]
    value: MeanInterval
    energy: Quantity | None
    is_apart: bool | None = None
    """Whether the best is better beyond noise; None where the seeds are too few to tell."""


def answer(runs: pd.DataFrame) -> Answer:
    """The best setting by quality, with the least energy to build and to serve beside it.

    Measured students go before estimated ones; the two are never ranked against each other.
    Nothing is ranked by accuracy where no teacher is above chance.
    """
    students = distinct_students(runs)
    if not students:
        text = f"Runs in this folder: {len(runs)}. Each is listed below with its reason."
        return Answer("No run has finished yet.", [text], None, [])
    scored = [run for run in students if known([run], KEPT) or known([run], _BITS)]
    candidates = scored or students
    energy = energy_column(candidates)
    kinds = [energy_class(run[quality_of(energy)]) for run in candidates]
    kind = min(kinds, key=CLASSES.index)
    ranked = [run for run, found in zip(candidates, kinds, strict=True) if found == kind]
    sure = [_energy_words(ranked, kind, energy)]
    if apart := len(candidates) - len(ranked):
        sure.append(f"Not ranked, because their energy is not {kind}: {_students(apart)}.")
    if apart := len(students) - len(candidates):
        sure.append(f"Not ranked, because they have no score: {_students(apart)}.")
    if imported := len(known(students, "origin")):
        sure.append(f"Imported from records of other software: {_students(imported)}.")
    warning = _WARNINGS.get(kind)
    note = "" if kind == "measured" else f" ({kind})"
    accurate = _ranked_settings(runs, ranked, energy, ACCURACY_KEPT)
    if accurate and not is_at_chance(accurate[0].students):
        if apart := len(ranked) - sum(len(setting.students) for setting in accurate):
            why = f"because their accuracy kept is {NOT_TOLD}"
            sure.append(f"Not ranked, {why}: {_students(apart)}.")
        sure.insert(0, _quality_words(accurate, ACCURACY_KEPT))
        headline = _headline(accurate, ACCURACY_KEPT, note=note)
        return Answer(headline, sure, warning, _highlights(accurate, ACCURACY_KEPT))
    lead = _no_accuracy_words(accurate, ranked)
    if predicting := _ranked_settings(runs, ranked, energy, BITS_PER_BYTE):
        sure.insert(0, _quality_words(predicting, BITS_PER_BYTE))
        headline = f"{lead}{_headline(predicting, BITS_PER_BYTE, note=note)}"
        return Answer(headline, sure, warning, _highlights(predicting, BITS_PER_BYTE))
    frugal = _least_energy(ranked, energy)
    if lead and frugal:
        lead += f"{_capital(frugal.student)} took the least energy to build: {frugal.figure}."
    elif not lead:
        why = "None was evaluated, so none is recommended."
        if known(students, "om_perf_reason"):
            why = "No score can be compared with the teacher's, so none is recommended."
        was = "was" if len(students) == 1 else "were"
        lead = f"{_students(len(students))} {was} built. {why}"
    return Answer(lead, sure, warning, [frugal] if frugal else [])


def _students(number: int) -> str:
    return units.count(number, "student")


def _ranked_settings(
    runs: pd.DataFrame, students: list[Row], energy: str, quality: Quality
) -> list[_Setting]:
    """The settings that have the quality, the best first; those at chance are never among them."""
    energies = over_seeds(students, energy)
    groups = grouped(known(students, quality.column), "group")
    settings = [
        _Setting(rows[0]["group_label"], rows, spread, energies.get(group))
        for group, rows in groups.items()
        if (spread := mean_interval_of(rows, quality.column))
    ]
    sign = -1 if quality.higher_is_better else 1
    by_accuracy = quality is ACCURACY_KEPT
    settings.sort(
        key=lambda s: (by_accuracy and is_at_chance(s.students), sign * (s.value.value or 0.0)),
    )
    if len(settings) < 2:
        return settings
    names = [run["run"] for run in students]
    pairs = every_pair(runs.loc[runs["run"].isin(names)], [quality.column])
    best = settings[0]
    return [best, *(replace(s, is_apart=_is_apart(best, s, pairs)) for s in settings[1:])]


def _is_apart(best: _Setting, other: _Setting, pairs: list[Comparison]) -> bool | None:
    """By pairs of one seed; where seeds do not pair up, by intervals that do not overlap."""
    groups = {setting.students[0]["group"] for setting in (best, other)}
    for pair in pairs:
        if {pair.group, pair.baseline_group} == groups and pair.num_pairs > 1:
            return None if pair.p_holm is None else pair.verdict in ("better", "worse")
    if min(best.value.num_seeds, other.value.num_seeds) < 2:
        return None
    ends = (best.value.low, best.value.high, other.value.low, other.value.high)
    if None in ends:
        return None
    low, high, other_low, other_high = (end or 0.0 for end in ends)
    return high < other_low or other_high < low


def _no_accuracy_words(accurate: list[_Setting], ranked: list[Row]) -> str:
    """A sentence that nothing is ranked by accuracy, and why; empty where nothing was scored."""
    if accurate:
        found = [name for s in accurate for run in s.students
                 for name in names_of(run, "student_at_chance")]  # fmt: skip
        names = ", ".join(dict.fromkeys(found))
        return (
            f"No student is better than guessing: all are {AT_CHANCE} on every benchmark "
            f"({names}). "
        )
    reasons = [
        reason
        for reason, rows in missing_reasons(ranked).items()
        # An imported run's reason is a paragraph about how it was asked.
        if all(run["om_perf_reason"] != reason for run in rows)
    ]
    return f"Accuracy kept is {NOT_TOLD}: {'; '.join(reasons)}. " if reasons else ""


def _headline(settings: list[_Setting], quality: Quality, *, note: str) -> str:
    """What the best setting keeps and what building it took. Nothing else: a student reads it."""
    best = settings[0]
    text = f"{_capital(best.label)} predicts held-out text best ({_score(best.value, quality)})."
    if quality is ACCURACY_KEPT:
        value, ends = share_and_ends(best.value)
        interval = ends if best.value.low is None else f"95 % interval {ends}"
        text = f"{_capital(best.label)} keeps {value} of its teacher's accuracy above chance"
        text += f" ({interval})."
    if best.energy is None:
        return text
    return f"{text} Building it took {units.energy(best.energy.number)}{note}."


def _cheaper_words(settings: list[_Setting], quality: Quality) -> str:
    """A setting that took less to build and is as good as far as the seeds tell; empty if none."""
    most_j = 0.95 * settings[0].energy.number if settings[0].energy else 0.0
    for other in settings[1:]:
        if other.is_apart is False and other.energy and other.energy.number < most_j:
            joules, keeps = units.energy(other.energy.number), _score(other.value, quality)
            return f" Building {other.label} took less energy ({joules}), and it has {keeps}."
    return ""


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _highlights(settings: list[_Setting], quality: Quality) -> list[Highlight]:
    """The best setting, the cheapest one, and what serving the best takes."""
    best, *others = settings
    first = "Most accurate" if quality is ACCURACY_KEPT else "Best on held-out text"
    if any(other.is_apart is False for other in others):
        first += " (within noise)"
    elif any(other.is_apart is None for other in others):
        one, several = draws_words(best.students)
        first += f" (one {one})" if best.value.num_seeds == 1 else f" (few {several})"
    detail = _and_chance(_cost(best), best)
    highlights = [_highlight(first, best, _score(best.value, quality), detail)]
    costed = [setting for setting in settings if setting.energy]
    if costed:
        frugal = min(costed, key=lambda s: s.energy.number if s.energy else 0.0)
        keeps = "keeps " if quality is ACCURACY_KEPT else ""
        score = _and_chance(f"{keeps}{_score(frugal.value, quality)}", frugal)
        highlights.append(_highlight("Least energy to build", frugal, _cost(frugal), score))
    student = served(best.students[0], "student")
    if student.value is not None:
        words = units.quantity_words(student), _serving_detail(best, student)
        highlights.append(_highlight("Energy to serve the best", best, *words))
    return highlights


def _and_chance(text: str, setting: _Setting) -> str:
    marks = at_chance_words(setting.students)
    return f"{text}; {marks}" if marks else text


def _serving_detail(setting: _Setting, student: Quantity) -> str:
    """What stands beside the joules per token; a reported figure is compared with none."""
    if student.quality == "reported":
        return "prompt and answer together, as the other software reports it"
    loop, teacher = loop_label(setting.students), served(setting.students[0], "teacher")
    if teacher.value is None:
        return f"{loop}; prompt and answer together"
    takes = f"{loop}; its teacher takes {units.quantity_words(teacher)}"
    times = ratio(teacher, student)
    if times.value is None or times.low is None or times.high is None:
        return f"{takes}; the ratio of the two is unresolved"
    low, high = (units.significant(end, 2) for end in (times.low, times.high))
    value = units.significant(times.value, 2)
    return f"{takes}, {value} times as much (95 % interval {low} to {high}, without calibration)"


def _least_energy(students: list[Row], energy: str) -> Highlight | None:
    """The cheapest of students that no score compares."""
    means = over_seeds(students, energy)
    if not means:
        return None
    group = min(means, key=lambda group: means[group].number)
    same = grouped(students, "group")[group]
    value = mean_interval_of(same, energy)
    assert value is not None, "a setting with a mean has the number"
    setting = _Setting(same[0]["group_label"], same, value, means[group])
    detail = _and_chance("its accuracy cannot be compared", setting)
    return _highlight("Least energy to build", setting, _cost(setting), detail)


def _highlight(question: str, setting: _Setting, figure: str, detail: str) -> Highlight:
    return Highlight(question, setting.label, setting.students[0]["group"], figure, detail)


def _cost(setting: _Setting) -> str:
    if setting.energy is None:
        return "energy unknown"
    joules = units.energy(setting.energy.number, error_j=setting.energy.half_width)
    return f"{joules} ({units.watt_hours(setting.energy.number)})"


def _score(value: MeanInterval, quality: Quality) -> str:
    if quality is ACCURACY_KEPT:
        return share_words(value)
    return f"{units.with_error(value.value, value.half_width)} bits/byte"


def _quality_words(settings: list[_Setting], quality: Quality) -> str:
    """How sure the first place is: its interval, and what cannot be told from it."""
    best, *others = settings
    what = "Bits per byte on held-out text (lower is better)"
    if quality is ACCURACY_KEPT:
        what = "Accuracy kept (0 % is guessing, 100 % is the teacher)"
    one, several = draws_words(best.students)
    spread = best.value.words if best.value.low is not None else f"from a single {one}"
    text = f"{what}: {best.label} has {_score(best.value, quality)}, {spread}."
    if not others:
        return f"{text} There is no other setting to compare with."
    text += f" Second is {others[0].label} with {_score(others[0].value, quality)}."
    same = [other.label for other in others if other.is_apart is False]
    open_ = [other.label for other in others if other.is_apart is None]
    if same:
        differs = "difference" if len(same) == 1 else "differences"
        is_are = "is" if len(same) == 1 else "are"
        text += f" The {differs} from {_listed(same)} {is_are} within noise."
    if open_:
        whom = "the others" if len(open_) == len(others) else _listed(open_)
        few = f"One {one} is" if best.value.num_seeds == 1 else f"So few {several} are"
        text += f" {few} not enough to say that {best.label} is better than {whom}."
    if not same and not open_:
        text += " It is better than every other setting, beyond noise."
    return text + _cheaper_words(settings, quality)


def _listed(labels: list[str]) -> str:
    """Such as `a, b and c`; of very many the first, and how many more."""
    if len(labels) > MAX_LABELS:
        labels = [*labels[:MAX_LABELS], f"{len(labels) - MAX_LABELS} more"]
    return f"{', '.join(labels[:-1])} and {labels[-1]}" if len(labels) > 1 else labels[0]


def _energy_words(students: list[Row], kind: str, energy: str) -> str:
    shares = [
        run["own_energy_uncertainty_j"] / run["own_energy_j"]
        for run in known(students, "own_energy_uncertainty_j", "own_energy_j")
        if run["own_energy_j"] > 0
    ]
    sigma = ""
    if shares:
        sigma = f", ± {units.significant(100 * median(shares), 2)} % (one standard deviation)"
    scope = "building the student alone. The energy of inherited work is unknown for some students."
    if energy == "total_amortised_energy_j":
        scope = f"building the student and its share of inherited work. {INHERITED}"
    return f"The energy is {kind}{sigma}. It covers {scope}"
