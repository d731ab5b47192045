"""What a reader must know before quoting a number, derived from the tables."""

from __future__ import annotations

import json

import pandas as pd

from multirun_analysis import units
from multirun_analysis.collect import Collected
from multirun_analysis.labels import distinct_students
from multirun_analysis.metrics import num_students, top_windows
from multirun_analysis.pareto import energy_class


def caveats(collected: Collected) -> list[tuple[str, str]]:
    """Titles and sentences, plain text; subjects of which nothing is known are left out."""
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
