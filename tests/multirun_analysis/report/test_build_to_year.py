"""One student from building to a year of service, by hand from runs.csv, beside what is told."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from kdwatts.metrics.footprint import co2e_kg, cost_usd
from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.repayment import efficiency, repayments
from multirun_analysis.statistics.served import served
from multirun_analysis.values.rows import distinct_students

TOKENS_PER_DAY, DAYS = 1e6, 365
PUE, GRID_G_PER_KWH, USD_PER_KWH = 1.25, 400.0, 0.20


@pytest.fixture
def study(make: Any, tmp_path: Path):
    """Two students share a teacher of 120 kJ: one of 300 and one of 500 kJ; its runs.csv alone.

    The first run measured serving at 9, 10 and 11 mJ a token, its teacher at 29, 30 and 31 mJ; the
    second run measured nothing and serves alike.
    """
    site = {
        "own_energy_random_sd_j": 3e3, "own_energy_shared_sd_j": 15e3, "own_energy_uncertainty_j":
        math.hypot(3e3, 15e3), "pue": PUE, "grid_gco2e_per_kwh": GRID_G_PER_KWH,
        "inherited_energy_j": 120e3, "inherited_energy_by_artifact_j": {"teacher-1": 120e3},
        "inherited_energy_random_sd_j": 0.0, "inherited_energy_shared_sd_j": 6e3,
    }  # fmt: skip
    runs_dir, out_dir = tmp_path / "runs", tmp_path / "out"
    for name, own_j in (("response", 300e3), ("feature", 500e3)):
        folder = make.run(
            runs_dir / name, paradigm=name, student_key=name, own_energy_j=own_j,
            co2e_kg=own_j / 3.6e6 * PUE * GRID_G_PER_KWH / 1000, student_total_j_per_token=None,
            teacher_total_j_per_token=None, **site,
        )  # fmt: skip
        mine = name == "response"
        make.serving(
            folder,
            student=[0.009, 0.010, 0.011] if mine else [],
            teacher=[0.029, 0.030, 0.031] if mine else [],
        )
    collected = collect([runs_dir], out_dir)
    with (out_dir / "runs.csv").open(newline="") as file:
        by_hand = {row["paradigm"]: row for row in csv.DictReader(file)}
    return collected, by_hand


def test_a_year_of_a_student_is_what_its_row_says_by_hand(study):
    collected, by_hand = study
    row = {key: float(by_hand["response"][key]) for key in (
        "own_energy_j", "inherited_amortised_energy_j", "total_amortised_energy_j",
        "student_served_j_per_token", "teacher_served_j_per_token", "pue", "grid_gco2e_per_kwh",
        "co2e_kg", "om_perf", "eff_overall",
    )}  # fmt: skip
    # Build: 300 kJ and half of 120 kJ. Serve: the means of three.
    assert row["inherited_amortised_energy_j"] == pytest.approx(60e3)
    build_j = row["own_energy_j"] + row["inherited_amortised_energy_j"]
    assert build_j == pytest.approx(360e3) == row["total_amortised_energy_j"]
    assert row["student_served_j_per_token"] == pytest.approx(0.010)
    assert row["teacher_served_j_per_token"] == pytest.approx(0.030)
    assert row["eff_overall"] == pytest.approx(0.95 * 3)
    # A year: 365 million tokens, 3.65 MJ served and 0.36 MJ built, against 10.95 MJ.
    tokens = TOKENS_PER_DAY * DAYS
    year_j = build_j + tokens * row["student_served_j_per_token"]
    teacher_year_j = tokens * row["teacher_served_j_per_token"]
    assert (year_j, teacher_year_j) == pytest.approx((4.01e6, 10.95e6))
    # 4.01 MJ are 1.1139 kWh, with PUE 1.3924 kWh: 557 g at 400 g/kWh and 0.2785 USD.
    assert co2e_kg(year_j, pue=row["pue"], grid_gco2e_per_kwh=row["grid_gco2e_per_kwh"]) == (
        pytest.approx(4.01e6 / 3.6e6 * 1.25 * 0.4)
    )
    assert cost_usd(year_j, pue=row["pue"], price_usd_per_kwh=USD_PER_KWH) == pytest.approx(
        0.278472, rel=1e-5
    )
    assert row["co2e_kg"] == pytest.approx(300e3 / 3.6e6 * 1.25 * 0.4)
    # What is told of the setting is the same: 360 kJ over 20 mJ are 18 million tokens, 18 days.
    (told,) = (r for r in repayments(collected.runs, collected.train) if r.paradigm == "response")
    assert told.built.value == pytest.approx(build_j)
    assert told.student.value == pytest.approx(row["student_served_j_per_token"])
    assert told.tokens.verdict == "reached"
    assert told.tokens.value == pytest.approx(build_j / (0.030 - 0.010)) == pytest.approx(18e6)
    assert efficiency(told, 1e9).value == pytest.approx(0.95 * 1e9 * 0.03 / (360e3 + 1e9 * 0.01))


def test_the_interval_of_repaying_is_worked_from_the_same_row(study):
    """s = 1 mJ in both: the gain is 20 mJ within t[4] * sqrt(2 / 3) mJ; 360 kJ within 1.96 sd, of
    which 3 kJ are random and 1 % is not shared between training and serving."""
    collected, by_hand = study
    row = by_hand["response"]
    sds = [float(row[f"{subject}_served_random_sd_j"]) for subject in ("student", "teacher")]
    assert sds == pytest.approx([1e-3 / math.sqrt(3)] * 2)
    assert {row[f"{subject}_served_degrees"] for subject in ("student", "teacher")} == {"2.0"}
    gain_half = 2.776445 * math.hypot(*sds)
    build_half = 1.959964 * math.hypot(3e3, 0.01 * 360e3)
    q = 0.02**2 - gain_half**2
    p, s = 360e3 * 0.02, 360e3**2 - build_half**2
    root = math.sqrt(p**2 - q * s)
    (told,) = (r for r in repayments(collected.runs, collected.train) if r.paradigm == "response")
    ends = ((p - root) / q, (p + root) / q)
    assert (told.tokens.low, told.tokens.high) == pytest.approx(ends)
    assert 0 < ends[0] < 18e6 < ends[1]


def test_the_dearer_student_of_the_architecture_is_dearer_by_its_building_alone(study):
    collected, by_hand = study
    tokens = TOKENS_PER_DAY * DAYS
    years_j = {
        name: float(row["total_amortised_energy_j"])
        + tokens * float(row["student_served_j_per_token"])
        for name, row in by_hand.items()
    }
    assert years_j["feature"] - years_j["response"] == pytest.approx(200e3)
    figures = {served(run, "student") for run in distinct_students(collected.runs)}
    assert len(figures) == 1
