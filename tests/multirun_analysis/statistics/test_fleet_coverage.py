"""Of many measurements of one truth, the 95 % intervals of a fleet hold it in about 95 of 100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.fleets import fleets
from multirun_analysis.statistics.operating_point import of_rate
from multirun_analysis.statistics.savings import absolute_interval
from multirun_analysis.values.rows import Row, to_rows
from tests.multirun_analysis.written_fleets import LIMITS, server
from tests.multirun_analysis.written_serving import write_under_load

TRIALS = 600
RELATIVE_SD, CALIBRATION, UNSHARED = 0.01, 0.05, 0.01
DEGREES = 19
RATE = 12.0
"""The student needs 2 replicas and the teacher 4, each between two measured loads."""
TRUE_J = {"response": 400 / 12, "teacher": 1120 / 12}
BUILT_J = 5e6


def test_joules_a_request_and_break_even_hold_the_truth_in_95_of_100_cases(
    make: Any, tmp_path: Path
):
    """A sensor that is off by 5 % reads all; each power errs by 1 % more, and building by 2 %.

    The bounds are three standard errors of a share of 600 around 95 %.
    """
    servers = [server("student", 80, 20, 8.0), server("teacher", 100, 60, 4.0)]
    folder = make.run(tmp_path / "0", own_energy_j=BUILT_J, own_energy_random_sd_j=0.02 * BUILT_J,
                      own_energy_shared_sd_j=CALIBRATION * BUILT_J, inherited_energy_j=0.0,
                      inherited_energy_by_artifact_j={})  # fmt: skip
    write_under_load(folder, *servers)
    found = collect([tmp_path])
    serving, runs = to_rows(found.serving), to_rows(found.runs)
    chance = np.random.default_rng(2026)
    held = {"joules": 0, "requests": 0, "resolved": 0}
    for _ in range(TRIALS):
        factor = 1 + CALIBRATION * chance.standard_normal()
        read = _measured(serving, factor, chance)
        built_j = BUILT_J * factor * (1 + UNSHARED * chance.standard_normal())
        built_j *= 1 + 0.02 * chance.standard_normal()
        (run,) = runs
        student, _ = fleets(read, [run | {"own_energy_j": built_j}], of_rate(RATE, LIMITS))
        joules, requests = absolute_interval(student.j_per_request), student.requests
        held["joules"] += _inside(TRUE_J["response"], joules.low, joules.high)
        truth = BUILT_J / (TRUE_J["teacher"] - TRUE_J["response"])
        held["requests"] += _inside(truth, requests.low, requests.high)
        held["resolved"] += requests.verdict == "reached"
    assert held["resolved"] == TRIALS
    assert 0.923 < held["joules"] / TRIALS < 0.977
    assert 0.923 < held["requests"] / TRIALS < 0.977


def _inside(truth: float, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= truth <= high


def _measured(serving: list[Row], factor: float, chance: np.random.Generator) -> list[Row]:
    """The rows as one measurement of each server would have them."""
    parked: dict[str, Row] = {}
    found = []
    for row in serving:
        subject = row["subject"]
        if subject not in parked:
            parked[subject] = _figure(row, "parking_power_w", factor, chance)
        found.append(row | _figure(row, "power_w", factor, chance) | parked[subject])
    return found


def _figure(row: Row, name: str, factor: float, chance: np.random.Generator) -> Row:
    value = row[name] * factor * (1 + RELATIVE_SD * chance.standard_normal())
    spread = np.sqrt(chance.chisquare(DEGREES) / DEGREES)
    return {
        name: value,
        f"{name}_random_sd": RELATIVE_SD * value * spread,
        f"{name}_shared_sd": CALIBRATION * value,
        f"{name}_degrees": DEGREES,
    }
