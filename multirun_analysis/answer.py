"""The answer in words, derived from the tables: which student, at what energy, how sure."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from multirun_analysis import units
from multirun_analysis.labels import distinct_students
from multirun_analysis.metrics import Interval, over_seeds
from multirun_analysis.pareto import energy_class
from multirun_analysis.plots import BITS_PER_BYTE, OM_PERF, Quality


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
    """Which student, at what energy, how sure. Plain text, not escaped."""

    headline: str
    sureness: list[str]
    cards: list[Card]


def energy_column(runs: pd.DataFrame) -> str:
    """The energy that answers: with a share of inherited work, or own where that is unknown."""
    complete = distinct_students(runs)["total_amortised_energy_j"].notna()
    return "total_amortised_energy_j" if len(complete) and complete.all() else "own_energy_j"


def answer(runs: pd.DataFrame) -> Answer:
    """The page's first screen. Measured students go before estimated ones; both are never ranked
    against each other."""
    students = distinct_students(runs)
    if students.empty:
        text = f"{len(runs)} runs were found; each is listed below with its reason."
        return Answer("No run has finished yet.", [text], [])
    energy = energy_column(runs)
    kinds = students["own_energy_quality"].map(energy_class)
    kind = next(
        kind for kind in ("measured", "mixed", "estimated", "missing") if kind in set(kinds)
    )
    ranked = students[kinds == kind]
    quality = OM_PERF if ranked["om_perf"].notna().any() else BITS_PER_BYTE
    names = ranked.drop_duplicates("group").set_index("group")
    values, energies = over_seeds(ranked, quality.column), over_seeds(ranked, energy)
    left_out = len(students) - len(ranked)
    notes = (
        [f"{left_out} students whose energy is not {kind} are left out of this ranking."]
        if left_out
        else []
    )
    if not values:
        text = (
            f"{len(students)} students were built; none was evaluated, so none can be recommended."
        )
        return Answer(text, [_energy_words(ranked, kind, energy), *notes], [])
    sign = 1 if quality.higher_is_better else -1
    order = sorted(values, key=lambda group: -sign * values[group].mean)
    best = order[0]
    name = str(names.at[best, "group_label"])
    name = name[:1].upper() + name[1:]
    cost = f" for {units.energy(energies[best].mean)}" if best in energies else ""
    if quality is OM_PERF:
        kept = units.significant(100 * values[best].mean)
        headline = f"{name} keeps {kept} % of its teacher's accuracy{cost}."
    else:
        headline = f"{name} reads held-out text best{cost}."
    sure = [
        _quality_words(ranked, values, order, names, quality),
        _energy_words(ranked, kind, energy),
    ]
    cards = [_card("Most accurate", best, names, values, energies, quality)]
    if energies:
        frugal = min(energies, key=lambda group: energies[group].mean)
        cards.append(_card("Least energy to build", frugal, names, values, energies, quality))
    serving = over_seeds(ranked, "student_total_j_per_token")
    if serving:
        served = min(serving, key=lambda group: serving[group].mean)
        figure = units.quantity(serving[served].mean, "J/token")
        cards.append(
            _card("Least energy to serve", served, names, values, energies, quality, figure)
        )
    return Answer(headline, [*sure, *notes], cards)


def _card(
    question: str,
    group: str,
    names: pd.DataFrame,
    values: dict[str, Interval],
    energies: dict[str, Interval],
    quality: Quality,
    figure: str | None = None,
) -> Card:
    value, energy = values.get(group), energies.get(group)
    scores = [] if value is None else [_score(value, quality)]
    joules = (
        []
        if energy is None
        else [
            f"{units.energy(energy.mean, error_j=energy.half_width)} "
            f"({units.watt_hours(energy.mean)})"
        ]
    )
    parts = joules + scores if question.startswith("Least energy to build") else scores + joules
    figure, *detail = [figure, *parts] if figure else parts
    return Card(
        question,
        str(names.at[group, "group_label"]),
        str(names.at[group, "paradigm"]),
        figure,
        " · ".join(detail),
    )


def _score(value: Interval, quality: Quality) -> str:
    shown = units.with_error(value.mean, value.half_width)
    return f"OM_perf {shown}" if quality is OM_PERF else f"{shown} bits/byte"


def _quality_words(
    students: pd.DataFrame,
    values: dict[str, Interval],
    order: list[str],
    names: pd.DataFrame,
    quality: Quality,
) -> str:
    """How sure the first place is: its interval, and the runner-up's."""
    best = values[order[0]]
    if best.half_width is None:
        text = f"{_score(best, quality)} from a single seed: another seed may land elsewhere"
        stderr = students.loc[students["group"] == order[0], "om_perf_stderr"].iloc[0]
        if quality is OM_PERF and not pd.isna(stderr):
            shown = units.with_error(best.mean, stderr)
            text = f"OM_perf {shown} (one standard error of the benchmarks) from a single seed: "
            text += "another seed may land elsewhere"
    else:
        text = f"{_score(best, quality)} (95 % interval over {best.num_values} seeds)"
    if len(order) == 1:
        return f"{text}. There is no other setting to compare with."
    second, name = values[order[1]], names.at[order[1], "group_label"]
    gap = f"the runner-up {name} has {_score(second, quality)}"
    if best.half_width is None or second.half_width is None:
        return f"{text}; {gap}. One seed cannot tell whether the order holds."
    apart = best.low > second.high or best.high < second.low
    verdict = (
        "The intervals do not overlap: the first place holds."
        if apart
        else "The intervals overlap: these seeds do not settle which is better."
    )
    return f"{text}; {gap}. {verdict}"


def _energy_words(students: pd.DataFrame, kind: str, energy: str) -> str:
    share = (students["own_energy_uncertainty_j"] / students["own_energy_j"]).median()
    sigma = (
        "" if pd.isna(share) else f", one standard deviation {units.significant(100 * share, 2)} %"
    )
    scope = (
        "building the student plus its share of the work it inherited"
        if energy == "total_amortised_energy_j"
        else "building the student alone; inherited work is unknown for some"
    )
    if kind == "missing":
        return "The energy of these runs was not measured."
    if kind == "estimated":
        return (
            f"Energy is estimated from processor load and rated power, not measured{sigma}. "
            f"It covers {scope}."
        )
    word = "measured" if kind == "measured" else "partly measured and partly estimated"
    return f"Energy is {word}{sigma}. It covers {scope}."
