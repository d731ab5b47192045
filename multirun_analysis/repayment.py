"""When distilling pays: break-even of each setting, from its runs and from plain fine-tuning's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from kdwatts.metrics.break_even import (
    BreakEven,
    energy_at_quality,
    students_to_break_even,
    tokens_to_break_even,
)
from kdwatts.metrics.efficiency import lifetime_efficiency
from kdwatts.metrics.quantity import Quantity
from multirun_analysis import units
from multirun_analysis.metrics import mean_interval
from multirun_analysis.page import facet, section, table
from multirun_analysis.palette import paradigm_color
from multirun_analysis.pareto import CLASSES, energy_class
from multirun_analysis.rows import Row, distinct_students, grouped, known

BASELINE = "sft"
"""The paradigm that distillation is held against: the same text, no teacher."""
LIFETIMES = {"a million": 1e6, "a billion": 1e9, "a trillion": 1e12}
"""Tokens served over a student's life."""


@dataclass(frozen=True)
class Repayment:
    """One setting, over its seeds."""

    group: str
    label: str
    paradigm: str
    energy_class: str
    """How its joules were obtained, the worst of its seeds: measured, mixed, estimated, missing."""
    built: Quantity
    """Joules of building the student with its share of inherited work."""
    teacher: Quantity
    """Joules per token served; also of the student."""
    student: Quantity
    kept: float | None
    """OM_perf."""
    inherited: Quantity
    """Joules of all that was inherited, undivided; and of building the student alone."""
    own: Quantity
    baseline: Quantity
    """Joules at which fine-tuning is as good on held-out text; None where it never is."""
    tokens: BreakEven
    """T*: tokens served in the teacher's place that repay building and inherited share."""
    students: BreakEven
    """N*: students that must share what was inherited, against fine-tuning to the same quality."""
    lifetime: tuple[float | None, ...]
    """Lifetime efficiency after each of LIFETIMES."""


def repayments(runs: pd.DataFrame, train: pd.DataFrame) -> list[Repayment]:
    """One for each setting of distilled students that has any answer to give."""
    students = distinct_students(runs)
    curves = held_out_curves(train)
    found = []
    # Seeds measured and seeds estimated have no mean in common.
    for rows in grouped(students, lambda run: (run["group"], _energy_class([run]))).values():
        repayment = _repayment(rows, students, curves)
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
    rows: list[Row], students: list[Row], curves: dict[str, list[tuple[float, float]]]
) -> Repayment:
    built = _amount(rows, "total_amortised_energy_j", "own_energy_uncertainty_j")
    served = {
        subject: _amount(
            rows, f"{subject}_total_j_per_token", f"{subject}_total_interval_95_j", per_sd=1.96
        )
        for subject in ("teacher", "student")
    }
    kept = _amount(rows, "om_perf").value
    inherited = _amount(rows, "inherited_energy_j")
    own = _amount(rows, "own_energy_j", "own_energy_uncertainty_j")
    baseline = _baseline(rows, students, curves)
    shared = BreakEven("unknown")
    if baseline is not None:
        shared = students_to_break_even(inherited, baseline, own)
    return Repayment(
        group=rows[0]["group"],
        label=rows[0]["group_label"],
        paradigm=rows[0]["paradigm"],
        energy_class=_energy_class(rows),
        built=built,
        teacher=served["teacher"],
        student=served["student"],
        kept=kept,
        inherited=inherited,
        own=own,
        baseline=baseline or Quantity(None),
        tokens=tokens_to_break_even(built, served["teacher"], served["student"]),
        students=shared,
        lifetime=tuple(
            lifetime_efficiency(
                kept, served["teacher"].value, served["student"].value, built.value, tokens=tokens
            )
            for tokens in LIFETIMES.values()
        ),
    )


def _energy_class(rows: list[Row]) -> str:
    """The worst word for how joules of building and of serving were obtained."""
    columns = ("total_energy_quality", "inference_energy_quality")
    kinds = {energy_class(run[column]) for run in rows for column in columns}
    return max(kinds, key=CLASSES.index)


def _baseline(
    rows: list[Row], students: list[Row], curves: dict[str, list[tuple[float, float]]]
) -> Quantity | None:
    """Joules of the fine-tuned student of the same seed, pair, data, card and power limit, once it
    is as good.

    None where there is none to ask; an amount without value where it never is as good.
    """
    if rows[0]["paradigm"] == BASELINE:
        return None
    same = ("seed", "model", "data", "gpu", "power_limit_w")
    baselines_j: list[float | None] = []
    for run in known(rows, "heldout_bits_per_byte"):
        plain = [
            other
            for other in students
            if other["paradigm"] == BASELINE
            and other["run"] in curves
            and all(other[column] == run[column] for column in same)
        ]
        if plain:
            curve = curves[plain[0]["run"]]
            baselines_j.append(energy_at_quality(curve, run["heldout_bits_per_byte"]))
    if not baselines_j:
        return None
    reached = [joules for joules in baselines_j if joules is not None]
    # What one seed in three reaches is no answer.
    return _mean(reached) if len(reached) == len(baselines_j) else Quantity(None)


def _amount(rows: list[Row], column: str, error: str = "", *, per_sd: float = 1.0) -> Quantity:
    """Mean over seeds with its standard error; of one seed the error that its run states.

    So it is of one measurement that all seeds share, as of their teacher's: it varies with none.
    """
    found = known(rows, column)
    if len(found) < len(rows):
        return Quantity(None)
    if len({run[column] for run in found}) > 1 or not error:
        return _mean([run[column] for run in found])
    stated = found[0].get(error)
    return Quantity(found[0][column], None if stated is None else stated / per_sd)


def _mean(values: Sequence[float]) -> Quantity:
    interval = mean_interval(values)
    half_width = interval.half_width
    return Quantity(interval.mean, None if half_width is None else half_width / 1.96)


def repayment_section(runs: pd.DataFrame, train: pd.DataFrame) -> str:
    """A table of when each setting pays; nothing where no run can tell."""
    found = repayments(runs, train)
    if not found:
        return ""
    heads = (
        "<th>Setting</th><th>Tokens served<small>until its joules are repaid</small></th>"
        "<th>Students of one teacher<small>until it is repaid</small></th>"
    ) + "".join(f"<th>Efficiency<small>after {words} tokens</small></th>" for words in LIFETIMES)
    body = "".join(
        f'<tr{facet(r.group)}><th scope="row"><span class="dot" '
        f'style="--hue:{paradigm_color(r.paradigm)}"></span>'
        f"{escape(r.label)}</th><td>{_words(r.tokens)}</td><td>{_words(r.students)}</td>"
        + "".join(f"<td>{units.number(value)}</td>" for value in r.lifetime)
        + "</tr>"
        for r in found
    )
    return section(
        "When it pays",
        "Tokens served in the teacher's place until building the student and its share of inherited"
        " work are repaid; students that must share the inherited work until distilling each costs "
        "less than fine-tuning to the same held-out quality (not reached: fine-tuning never got "
        "there); and OM_perf times the teacher's joules over the student's, its building included. "
        "Below a number is its 95 % interval; unresolved is a gain below twice its uncertainty.",
        table(heads, body),
    )


def verdict_words(found: BreakEven) -> str:
    """An answer in a few words of plain text."""
    if found.value is None:
        return found.verdict
    return units.quantity(found.value, "") if found.value >= 1000 else units.number(found.value)


def _words(found: BreakEven) -> str:
    if found.value is None:
        return units.MISSING if found.verdict == "unknown" else found.verdict
    interval = f"<small>{units.number(found.low)} to {units.number(found.high)}</small>"
    if found.value >= 1000:
        interval = (
            f"<small>{units.quantity(found.low, '')} to {units.quantity(found.high, '')}</small>"
        )
        return f"{units.quantity(found.value, '')}{interval}"
    return f"{units.number(found.value)}{interval}"
