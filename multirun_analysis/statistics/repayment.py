"""When distilling pays: break-even of each setting, from its runs and those of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdwatts.metrics.break_even import (
    BreakEven,
    apart_from_serving,
    energy_at_quality,
    students_to_break_even,
    tokens_to_break_even,
)
from kdwatts.metrics.efficiency import product
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import Quantity, add, ratio, scaled
from multirun_analysis.statistics import built
from multirun_analysis.statistics.accuracy_words import KEPT, mean_interval_of
from multirun_analysis.statistics.pareto import energy_class, worst_class
from multirun_analysis.statistics.served import KEYS, by_machine, served
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row, distinct_students, grouped, known

BASELINE = "sft"
"""The paradigm that distillation is held against: the same text, no teacher."""
LIFETIMES = {"a million": 1e6, "a billion": 1e9, "a trillion": 1e12}
"""Tokens served over a student's life."""


@dataclass(frozen=True)
class Repayment:
    """Break-even of one setting, over its seeds."""

    group: str
    label: str
    apart: str
    """The end of the label, where the seeds of its setting have no figure in common."""
    runs: tuple[str, ...]
    paradigm: str
    energy_class: str
    """How its joules were obtained, the worst of its seeds: measured, mixed, estimated, missing."""
    built: Quantity
    """Joules of building the student with its share of inherited work."""
    teacher: Quantity
    """J/token of the teacher, pooled over the runs that measured it."""
    student: Quantity
    """J/token of the student, likewise."""
    kept: Interval
    """OM_perf. No value where accuracy kept cannot be told, as with a teacher at chance."""
    inherited: Quantity
    """Joules of all that was inherited, undivided."""
    own: Quantity
    """Joules of building the student alone."""
    baseline: Quantity
    """Joules at which fine-tuning is as good on held-out text. No value where it never is."""
    same_meter: bool
    """Whether one machine read the joules of building and of serving: its calibration cancels."""
    tokens: BreakEven
    """T*: the tokens to serve in the teacher's place to repay building and the inherited share."""
    students: BreakEven
    """N*: the students that must share what was inherited, against fine-tuning to equal quality."""


def joules_ratio(r: Repayment, tokens: float) -> Interval:
    """N EPT_T / (E + N EPT_S) with its 95 % interval by Fieller, as for T*.

    The teacher's joules for N `tokens`, over those of building the student and serving N tokens
    with it.
    """
    building = apart_from_serving(r.built) if r.same_meter else r.built
    whole = add([building, scaled(r.student, tokens, unit="J")])
    return ratio(scaled(r.teacher, tokens, unit="J"), whole, same_meter=r.same_meter)


def efficiency(r: Repayment, tokens: float) -> Interval:
    """Lifetime efficiency: OM_perf times `joules_ratio` (arXiv 2605.13981), with its interval."""
    return product(r.kept, joules_ratio(r, tokens))


def repayments(runs: pd.DataFrame, train: pd.DataFrame) -> list[Repayment]:
    """One for each setting of distilled students that has any answer, in their order."""
    students = in_order(distinct_students(runs))
    curves = held_out_curves(train)
    found = []
    # Seeds measured and seeds estimated have no mean in common.
    for alike in grouped(students, lambda run: (run["group"], worst_class([run]))).values():
        for apart, rows in by_machine(alike):
            repayment = _repayment(rows, students, curves, apart)
            # Nothing served and nothing inherited: there is no question.
            if {repayment.tokens.verdict, repayment.students.verdict} != {"unknown"}:
                found.append(repayment)
    return found


def held_out_curves(train: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """Run to its readings on held-out rows: joules drawn by then, and bits per byte."""
    if not {"split", "energy_j", "bits_per_byte"} <= set(train.columns):
        return {}
    rows: Any = train.loc[(train["split"] == "heldout")].dropna(
        subset=["energy_j", "bits_per_byte"]
    )
    return {
        str(run): sorted(zip(part["energy_j"], part["bits_per_byte"], strict=True))
        for run, part in rows.groupby("run")
    }


def _repayment(
    rows: list[Row], students: list[Row], curves: dict[str, list[tuple[float, float]]], apart: str
) -> Repayment:
    built_j = built.built(rows)
    teacher, student = (_served(rows, subject) for subject in ("teacher", "student"))
    told = _all(rows, "om_perf") and _all(rows, KEPT)
    spread = mean_interval_of(rows, "om_perf") if told else None
    inherited, own = (built.over_seeds(rows, of) for of in (built.inherited, built.own))
    baseline, plain = _baseline(rows, students, curves)
    shared = BreakEven("unknown")
    if baseline is not None:
        one_meter = _one_meter([*rows, *plain], ("own_energy_quality",))
        shared = students_to_break_even(inherited, baseline, own, same_meter=one_meter)
    same_meter = _served_where_built(rows, students)
    return Repayment(
        group=rows[0]["group"],
        label=rows[0]["group_label"] + apart,
        apart=apart,
        runs=tuple(run["run"] for run in rows),
        paradigm=rows[0]["paradigm"],
        energy_class=worst_class(rows),
        built=built_j,
        teacher=teacher,
        student=student,
        kept=spread or Interval(None),
        inherited=inherited,
        own=own,
        baseline=baseline or Quantity(None),
        same_meter=same_meter,
        tokens=tokens_to_break_even(built_j, teacher, student, same_meter=same_meter),
        students=shared,
    )


def _all(rows: list[Row], column: str) -> bool:
    return len(known(rows, column)) == len(rows)


def _served(rows: list[Row], subject: str) -> Quantity:
    """Joules per token of the architecture: one figure for all seeds."""
    found = known(rows, f"{subject}_served_j_per_token")
    return served(found[0] if found else rows[0], subject)


def _served_where_built(rows: list[Row], students: list[Row]) -> bool:
    """Whether one machine read the joules of building and of serving, in one way.

    Only then does its calibration cancel between them.
    """
    measured = [
        run
        for subject, key in zip(("student", "teacher"), KEYS, strict=True)
        for run in known(students, f"{subject}_total_j_per_token", key)
        if run[key] in {mine.get(key) for mine in rows}
    ]
    return _one_meter([*rows, *measured], ("own_energy_quality", "inference_energy_quality"))


def _one_meter(runs: list[Row], columns: tuple[str, ...]) -> bool:
    """Whether the runs were on one machine that is known, their joules obtained alike."""
    machines = {tuple(run.get(key) for key in ("host", "gpu", "num_gpus")) for run in runs}
    ways = {energy_class(run[column]) for run in runs for column in columns}
    return len(machines) == len(ways) == 1 and runs[0].get("host") is not None


def _baseline(
    rows: list[Row], students: list[Row], curves: dict[str, list[tuple[float, float]]]
) -> tuple[Quantity | None, list[Row]]:
    """Joules of the fine-tuned student of the same seed, pair, data, GPU and power limit, once it
    is as good; and the runs that say so.

    None where there is none to ask; a quantity without value where it never is as good.
    """
    if rows[0]["paradigm"] == BASELINE:
        return None, []
    same = ("seed", "model", "data", "gpu", "power_limit_w")
    baselines_j: list[float | None] = []
    asked = []
    for run in known(rows, "heldout_bits_per_byte"):
        plain = [
            other
            for other in students
            if other["paradigm"] == BASELINE
            and other["run"] in curves
            and all(other[column] == run[column] for column in same)
        ]
        if plain:
            asked.append(plain[0])
            curve = curves[plain[0]["run"]]
            baselines_j.append(energy_at_quality(curve, run["heldout_bits_per_byte"]))
    if not asked:
        return None, []
    reached = [joules for joules in baselines_j if joules is not None]
    # What one seed in three reaches is no answer.
    if len(reached) < len(baselines_j):
        return Quantity(None), asked
    # Of one seed the error is that of its own energy, of which the joules until then are a part.
    parts = dict(zip((run["run"] for run in asked), reached, strict=True))
    return built.over_seeds(asked, lambda run: built.part_of(run, parts[run["run"]])), asked


def verdict_words(found: BreakEven) -> str:
    """An answer in a few plain words."""
    if found.value is None:
        least = found.verdict == "unresolved" and found.low
        return f"{found.verdict}, not before {count_words(found.low)}" if least else found.verdict
    return count_words(found.value)


def count_words(count: float | None) -> str:
    """A number of tokens or students in words."""
    return units.plain_count(count)
