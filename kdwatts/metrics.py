"""Pure formulas over measured numbers: energy per token, accuracy kept, efficiency, carbon, cost.

A figure that cannot be formed from what was measured is None. Sources: method of each formula is
named in its docstring; OM_perf, EPT and Eff_overall follow arXiv 2605.13981.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

J_PER_KWH = 3.6e6
BOOTSTRAP_DRAWS = 10_000

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistics table); beyond 30
# the last one is used, which is wider than exact by at most 4 %.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

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


def window_net_energy_j(
    energy_j: Mapping[str, float | None],
    quality: Mapping[str, str],
    net_energy_j: Mapping[str, float | None],
) -> float | None:
    """Joules of the components that `total_energy` adds, less what they would have drawn idle.

    None where that of one of them is unknown, or none is known.
    """
    found = [net_energy_j.get(part) for part in summed_components(energy_j, quality)]
    return None if None in found or not found else sum(each or 0.0 for each in found)


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


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half of its 95 % interval by Student's t, values taken as independent draws.

    A single value has no interval. Raises ValueError for none.
    """
    if not values:
        raise ValueError("mean_and_half_width: 0 values given; give at least one")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, _T_975[min(count - 1, len(_T_975)) - 1] * math.sqrt(variance / count)


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
    low: float | None = None
    """2.5th percentile of `ratio` over the bootstrap; None where a standard error is unknown."""
    high: float | None = None
    """97.5th percentile."""


def om_perf(scores: Sequence[BenchmarkScore]) -> OmPerf:
    """Mean over benchmarks of student over teacher score (arXiv 2605.13981).

    A benchmark on which the teacher scores 0 has no ratio and makes the mean None. The standard
    error of s/t is |s/t| sqrt((u_s/s)^2 + (u_t/t)^2), written without dividing by s. The interval
    is a parametric bootstrap's: scores drawn anew from normal distributions of their standard
    errors (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 6.5), so that it
    is lopsided where a teacher's score is small against its error.
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
    low, high = (None, None) if stderr is None else _bootstrap_interval(scores)
    return OmPerf(
        ratio,
        None if stderr is None else stderr / len(scores),
        sum(corrected) / len(corrected) if corrected else None,
        at_chance,
        low,
        high,
    )


def _bootstrap_interval(scores: Sequence[BenchmarkScore]) -> tuple[float, float]:
    """The same numbers for the same scores: the generator has a fixed seed."""
    generator = random.Random(0)
    means = sorted(
        math.fsum(
            generator.gauss(score.student, score.student_stderr or 0.0)
            / max(generator.gauss(score.teacher, score.teacher_stderr or 0.0), 1e-9)
            for score in scores
        )
        / len(scores)
        for _ in range(BOOTSTRAP_DRAWS)
    )
    edge = round(0.025 * BOOTSTRAP_DRAWS)
    return means[edge - 1], means[-edge]


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


def water_l(energy_j: float | None, *, wue_l_per_kwh: float | None) -> float | None:
    """Litres that the site evaporates: kWh of the computers times water usage effectiveness.

    The Green Grid, white paper 35 (2011): site water over IT energy. Water of the power stations is
    not in it. None for a site whose figure is not known.
    """
    if energy_j is None or wue_l_per_kwh is None:
        return None
    return energy_j / J_PER_KWH * wue_l_per_kwh
