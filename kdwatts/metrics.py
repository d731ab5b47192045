"""Pure formulas over measured numbers: energy per token, accuracy kept, efficiency, carbon, cost.

A figure that cannot be formed from what was measured is None. Sources: method of each formula is
named in its docstring; OM_perf, EPT and Eff_overall follow arXiv 2605.13981.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

J_PER_KWH = 3.6e6

MEASURED = ("measured", "attributed")
"""Qualities that come from a sensor; `estimated` comes from a model."""


@dataclass(frozen=True)
class Energy:
    """An amount of energy and how far it can be trusted."""

    energy_j: float | None
    uncertainty_j: float | None
    """One standard deviation; None where the energy is None or nothing is known of its error."""
    quality: str
    """measured, attributed, estimated, missing, or mixed for a sum over different qualities."""


MISSING = Energy(None, None, "missing")


def total_energy(
    energy_j: Mapping[str, float | None],
    quality: Mapping[str, str],
    uncertainty_j: Mapping[str, float | None],
) -> Energy:
    """The sum of a window's measured components; of the estimated ones where none is measured.

    Measured and estimated components are never added. Independent sensors: uncertainties add in
    squares. A sum that holds an attributed component is attributed.
    """
    parts = summed_components(energy_j, quality)
    if not parts:
        return MISSING
    # The weaker word of the two sensors' kinds names the sum.
    labels = ("measured", "attributed", "estimated")
    return Energy(
        sum(energy_j[c] or 0.0 for c in parts),
        _root_sum_square(uncertainty_j.get(c) for c in parts),
        max((quality[c] for c in parts), key=labels.index),
    )


def summed_components(
    energy_j: Mapping[str, float | None], quality: Mapping[str, str]
) -> list[str]:
    """The components that `total_energy` adds: the measured ones, else the estimated ones."""
    for wanted in (MEASURED, ("estimated",)):
        parts = [c for c, j in energy_j.items() if j is not None and quality[c] in wanted]
        if parts:
            return parts
    return []


def add_energies(energies: Iterable[Energy]) -> Energy:
    """The sum over windows or artifacts. One missing term makes the sum missing, not smaller.

    Terms of different quality give `mixed`, so that a reader sees that the sum is no measurement.
    Uncertainties add linearly: the sensor's calibration error is shared by all terms. The sum of
    nothing is 0 J, measured.
    """
    terms = list(energies)
    if not terms:
        return Energy(0.0, 0.0, "measured")
    if any(term.energy_j is None for term in terms):
        return MISSING
    qualities = {term.quality for term in terms}
    uncertainties = [term.uncertainty_j for term in terms]
    return Energy(
        sum(term.energy_j or 0.0 for term in terms),
        None if None in uncertainties else sum(u or 0.0 for u in uncertainties),
        qualities.pop() if len(qualities) == 1 else "mixed",
    )


def _root_sum_square(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.sqrt(sum((value or 0.0) ** 2 for value in known))


def j_per_token(energy_j: float | None, tokens: int | None) -> float | None:
    """EPT: joules over tokens; None without either (arXiv 2605.13981)."""
    return energy_j / tokens if energy_j is not None and tokens else None


@dataclass(frozen=True)
class BenchmarkScore:
    """Primary, higher-is-better metric of one benchmark for the student and its teacher."""

    benchmark: str
    student: float
    teacher: float
    student_stderr: float | None
    teacher_stderr: float | None
    chance: float | None
    """Score of guessing; None where the benchmark has none."""


@dataclass(frozen=True)
class OmPerf:
    """Accuracy kept by the student."""

    ratio: float | None
    """Mean over benchmarks of student score over teacher score."""
    stderr: float | None
    """One standard error, by the delta method, benchmarks taken as independent."""
    corrected: float | None
    """The same of (score - chance), over the benchmarks whose teacher is clear of chance."""
    at_chance: tuple[str, ...]
    """Benchmarks left out of `corrected`: teacher within two standard errors of chance."""


def om_perf(scores: Sequence[BenchmarkScore]) -> OmPerf:
    """Mean over benchmarks of student over teacher score (arXiv 2605.13981).

    A benchmark on which the teacher scores 0 has no ratio and makes the mean None. The standard
    error of s/t is |s/t| sqrt((u_s/s)^2 + (u_t/t)^2), written without dividing by s.
    """
    if not scores or any(score.teacher <= 0 for score in scores):
        return OmPerf(None, None, None, ())
    ratio = sum(score.student / score.teacher for score in scores) / len(scores)
    errors = [_ratio_stderr(score) for score in scores]
    stderr = _root_sum_square(errors)
    at_chance = tuple(score.benchmark for score in scores if _at_chance(score))
    corrected = [
        (score.student - score.chance) / (score.teacher - score.chance)
        for score in scores
        if score.chance is not None and not _at_chance(score)
    ]
    return OmPerf(
        ratio,
        None if stderr is None else stderr / len(scores),
        sum(corrected) / len(corrected) if corrected else None,
        at_chance,
    )


def _ratio_stderr(score: BenchmarkScore) -> float | None:
    if score.student_stderr is None or score.teacher_stderr is None:
        return None
    ratio = score.student / score.teacher
    return math.hypot(score.student_stderr, ratio * score.teacher_stderr) / score.teacher


def _at_chance(score: BenchmarkScore) -> bool:
    if score.chance is None:
        return False
    return score.teacher - score.chance <= 2 * (score.teacher_stderr or 0.0)


def eff_overall(
    kept: float | None, teacher_j_per_token: float | None, student_j_per_token: float | None
) -> float | None:
    """OM_perf times teacher over student joules per token served (arXiv 2605.13981)."""
    if kept is None or teacher_j_per_token is None or not student_j_per_token:
        return None
    return kept * teacher_j_per_token / student_j_per_token


def co2e_kg(energy_j: float | None, *, pue: float, grid_gco2e_per_kwh: float) -> float | None:
    """Kilograms of CO2 equivalent: kWh times PUE times grams per kWh over 1000."""
    if energy_j is None:
        return None
    return energy_j / J_PER_KWH * pue * grid_gco2e_per_kwh / 1000


def cost_usd(energy_j: float | None, *, pue: float, price_usd_per_kwh: float) -> float | None:
    """US dollars of electricity, the building's overhead included."""
    return None if energy_j is None else energy_j / J_PER_KWH * pue * price_usd_per_kwh
