"""The page's words, derived from the tables: the answer, how sure it is, and what to beware of."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from multirun_analysis import units
from multirun_analysis.collect import Collected
from multirun_analysis.labels import distinct_students
from multirun_analysis.metrics import Interval, num_students, over_seeds, top_windows
from multirun_analysis.pareto import energy_class
from multirun_analysis.plots import BITS_PER_BYTE, OM_PERF, Quality


@dataclass(frozen=True)
class Card:
    """One candidate: a question, the student that answers it, its figure and what stands beside it."""

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
    name = names.at[best, "group_label"]
    cost = f" for {units.energy(energies[best].mean)}" if best in energies else ""
    if quality is OM_PERF:
        kept = units.significant(100 * values[best].mean)
        headline = f"{_capital(name)} keeps {kept} % of its teacher's accuracy{cost}."
    else:
        headline = f"{_capital(name)} reads held-out text best{cost}."
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
            f"{units.energy(energy.mean, error_j=energy.half_width)} ({units.watt_hours(energy.mean)})"
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


def caveats(collected: Collected) -> list[tuple[str, str]]:
    """What a reader must know before quoting a number: titles and sentences, plain text."""
    runs, students = collected.runs, distinct_students(collected.runs)
    found = [
        ("How energy was obtained", _provenance(students)),
        ("What is not counted", _not_counted(students)),
        ("Uncertainty and coverage", _uncertainty(students, collected.stages)),
        ("Inherited work", _sharing(students)),
        ("Accuracy", _accuracy(collected.scores, students)),
        ("Seeds", _seeds(students)),
        ("Carbon", _carbon(students)),
        ("Hardware", _hardware(runs)),
        ("Software", _software(runs)),
        ("Duplicates and interruptions", _repeats(runs)),
    ]
    return [(title, text) for title, text in found if text]


def _provenance(students: pd.DataFrame) -> str:
    kinds = students["own_energy_quality"].map(energy_class).value_counts()
    words = {
        "measured": "measured by sensors",
        "estimated": "estimated from processor load and rated power (no sensor was readable)",
        "mixed": "a sum of measured and estimated parts",
        "missing": "unknown",
    }
    parts = [f"{count} of {len(students)} {words.get(kind, kind)}" for kind, count in kinds.items()]
    text = f"Energy of building the students: {'; '.join(parts)}." if parts else ""
    if "estimated" in kinds.index:
        text += (
            " An estimate compares methods on one machine; it is no measurement of that machine."
        )
    if len(kinds) > 1:
        text += " Measured and estimated energies are ranked apart and never added in silence."
    return text


def _not_counted(students: pd.DataFrame) -> str:
    absent = [
        f"{part.upper()} in {students[f'{part}_energy_j'].isna().sum()} of {len(students)}"
        for part in ("gpu", "cpu", "dram")
        if students[f"{part}_energy_j"].isna().any()
    ]
    text = (
        "Power supplies, fans, disks and network are outside every figure; cooling enters carbon "
    )
    text += "and cost through the PUE alone. Idle power is included."
    return f"No figure for {', '.join(absent)}: not part of the sums. {text}" if absent else text


def _uncertainty(students: pd.DataFrame, stages: pd.DataFrame) -> str:
    share = (students["own_energy_uncertainty_j"] / students["own_energy_j"]).dropna() * 100
    parts = []
    if len(share):
        low, high = units.significant(share.min(), 2), units.significant(share.max(), 2)
        span = f"{low} %" if low == high else f"{low} to {high} %"
        parts.append(
            f"One standard deviation of a student's energy is {span} of it. It holds the sensor's "
            "calibration, which cancels in ratios on one card."
        )
    windows = top_windows(stages)
    windows = windows[windows["run"].isin(students["run"]) & (windows["outcome"] != "reused")]
    covered = windows[[c for c in windows if c.endswith("_coverage")]].min(axis=None)
    if not pd.isna(covered):
        parts.append(f"Samples span at least {units.significant(100 * covered)} % of every stage.")
    return " ".join(parts)


def _sharing(students: pd.DataFrame) -> str:
    sharers = num_students(students)
    if not sharers:
        return ""
    return (
        f"{len(sharers)} artifacts (token shards, teacher signals) are shared by 1 to "
        f"{max(sharers.values())} students. A share divides each by the distinct students found in "
        "these folders; students elsewhere would make it smaller. The uncertainty of inherited "
        "energy is not recorded, so such totals carry no error bar of their own."
    )


def _accuracy(scores: pd.DataFrame, students: pd.DataFrame) -> str:
    if scores.empty or students.empty:
        return ""
    scores = scores[scores["run"].isin(students["run"]) & scores["higher_is_better"].astype(bool)]
    tasks = [
        f"{row.task} ({row.metric}, {row.num_fewshot}-shot, {row.num_samples} samples, "
        f"{row.harness} {row.harness_version})"
        for row in scores.drop_duplicates(
            ["task", "metric", "num_fewshot", "num_samples"]
        ).itertuples()
    ]
    shown = ", ".join(tasks[:12]) + (f" and {len(tasks) - 12} more" if len(tasks) > 12 else "")
    text = f"OM_perf is the mean over benchmarks of student over teacher score. Scored on: {shown}."
    sets = scores.groupby("run")[["task", "num_fewshot"]].agg(lambda column: tuple(sorted(column)))
    if len(sets.drop_duplicates()) > 1:
        text += " Runs were scored on different sets: compare OM_perf only within one set."
    if students["model"].nunique() > 1:
        text += " The pairs differ: each OM_perf is relative to its own teacher."
    return text


def _seeds(students: pd.DataFrame) -> str:
    counts = students.groupby("group")["student_key"].nunique()
    if counts.empty:
        return ""
    text = "Diamonds are means over seeds with 95 % intervals by Student's t; thin bars of single "
    text += (
        "runs are one standard error over benchmark samples and one standard deviation of energy."
    )
    few = int((counts < 3).sum())
    return text + (f" {few} of {len(counts)} settings have fewer than 3 seeds." if few else "")


def _carbon(students: pd.DataFrame) -> str:
    sites = students.dropna(subset=["grid_gco2e_per_kwh"]).drop_duplicates(
        ["site", "grid_gco2e_per_kwh", "pue"]
    )
    parts = [
        f"{row.site}: {units.significant(row.grid_gco2e_per_kwh)} gCO2e/kWh, PUE "
        f"{units.significant(row.pue)}"
        for row in sites.itertuples()
    ]
    return (
        f"CO2e is own energy times PUE times grid intensity ({'; '.join(parts)})." if parts else ""
    )


def _hardware(runs: pd.DataFrame) -> str:
    machines = runs.drop_duplicates(["host", "cards", "cpu", "driver"]).dropna(subset=["host"])
    parts = [
        ", ".join(
            str(text)
            for text in (row.host, row.cards or row.cpu, row.driver and f"driver {row.driver}")
            if isinstance(text, str)
        )
        for row in machines.itertuples()
    ]
    text = f"{'; '.join(parts)}." if parts else ""
    if runs["cards"].nunique() > 1:
        text += " Cards differ: energies compare methods only on the same card."
    return text


def _software(runs: pd.DataFrame) -> str:
    commits = sorted({str(commit)[:12] for commit in runs["git_commit"].dropna()})
    versions = sorted(set(runs["versions"].dropna()))
    parts = [f"Commit {', '.join(commits)}."] if commits else []
    for text in versions:
        found = json.loads(text) if text.startswith("{") else {}
        parts.append(", ".join(f"{name} {version}" for name, version in found.items()) + ".")
    if len(commits) > 1 or len(versions) > 1:
        parts.append("Runs of different software are compared here.")
    return " ".join(part for part in parts if part != ".")


def _repeats(runs: pd.DataFrame) -> str:
    duplicates = int(runs["duplicate_of"].notna().sum())
    resumed = int((runs["num_attempts"].fillna(1) > 1).sum())
    parts = []
    if duplicates:
        parts.append(f"{duplicates} runs hold a student that another run holds; counted once.")
    if resumed:
        parts.append(f"{resumed} runs were interrupted and resumed; energy is of all attempts.")
    return " ".join(parts)
