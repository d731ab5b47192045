"""Every formula against a value worked by hand."""

from __future__ import annotations

import math

import pytest

from kdwatts.metrics import student_t
from kdwatts.metrics.accuracy_kept import BenchmarkScore, om_perf
from kdwatts.metrics.efficiency import eff_overall, j_per_token
from kdwatts.metrics.footprint import co2e_kg, cost_usd, water_l
from kdwatts.metrics.student_t import mean_and_half_width


def _score(
    name: str,
    student: float,
    teacher: float,
    errors: tuple[float | None, float | None] = (0.01, 0.01),
    chance: float | None = 0.25,
) -> BenchmarkScore:
    return BenchmarkScore(name, student, teacher, *errors, chance)


def test_ten_joules_over_four_tokens_are_two_and_a_half_joules_per_token():
    assert j_per_token(10, 4) == 2.5
    assert j_per_token(0.0, 4) == 0
    assert j_per_token(None, 4) is None
    assert j_per_token(10, 0) is None
    assert j_per_token(10, None) is None


def test_om_perf_is_the_mean_over_benchmarks_of_student_over_teacher():
    kept = om_perf([_score("a", 0.4, 0.5), _score("b", 0.6, 0.8)])
    assert kept.ratio == pytest.approx((0.8 + 0.75) / 2)
    # Chance 0.25: (0.15 / 0.25 + 0.35 / 0.55) / 2.
    assert kept.corrected == pytest.approx((0.6 + 7 / 11) / 2)
    assert kept.at_chance == ()


def test_the_standard_error_of_om_perf_follows_the_delta_method():
    # 0.4 / 0.5: hypot(0.03, 0.8 * 0.05) / 0.5 = 0.05 / 0.5 = 0.1, and 0.1 / 2 for two benchmarks.
    one = _score("a", 0.4, 0.5, (0.03, 0.05))
    exact = _score("b", 0.8, 0.8, (0.0, 0.0))
    assert om_perf([one, exact]).stderr == pytest.approx(0.05)
    assert om_perf([one, one]).stderr == pytest.approx(0.1 / math.sqrt(2))
    assert om_perf([one, _score("c", 0.4, 0.5, (None, 0.05))]).stderr is None


def test_a_student_that_scores_nothing_still_has_a_standard_error():
    kept = om_perf([_score("a", 0.0, 0.5, (0.01, 0.02), None)])
    assert kept.ratio == 0
    assert kept.stderr == pytest.approx(0.02)
    assert kept.corrected is None


def test_a_teacher_within_two_standard_errors_of_chance_is_left_out_of_the_corrected_mean_alone():
    at_edge = _score("edge", 0.25, 0.26, (0.01, 0.01))
    clear = _score("clear", 0.45, 0.65, (0.01, 0.01))
    kept = om_perf([at_edge, clear])
    assert kept.at_chance == ("edge",)
    assert kept.corrected == pytest.approx(0.5)
    assert kept.ratio == pytest.approx((25 / 26 + 9 / 13) / 2)
    assert om_perf([at_edge]).corrected is None


def test_a_student_below_chance_is_not_raised_to_it():
    assert om_perf([_score("a", 0.2, 0.5)]).corrected == pytest.approx(-0.2)


def test_no_benchmark_or_a_teacher_that_scores_nothing_gives_no_om_perf():
    assert om_perf([]).ratio is None
    kept = om_perf([_score("a", 0.4, 0.5), _score("b", 0.1, 0.0)])
    assert (kept.ratio, kept.stderr, kept.corrected) == (None, None, None)


def test_eff_overall_multiplies_what_was_kept_by_what_a_token_of_the_teacher_costs_more():
    assert eff_overall(0.9, 8.0, 2.0) == pytest.approx(3.6)
    for missing in ((None, 8.0, 2.0), (0.9, None, 2.0), (0.9, 8.0, None), (0.9, 8.0, 0.0)):
        assert eff_overall(*missing) is None


def test_ten_kilowatt_hours_at_400_g_in_a_building_of_pue_1_5_are_6_kg():
    assert co2e_kg(3.6e7, pue=1.5, grid_gco2e_per_kwh=400) == pytest.approx(6)
    assert co2e_kg(None, pue=1.5, grid_gco2e_per_kwh=400) is None


def test_ten_kilowatt_hours_at_20_cents_in_a_building_of_pue_1_5_are_3_dollars():
    assert cost_usd(3.6e7, pue=1.5, price_usd_per_kwh=0.2) == pytest.approx(3)
    assert cost_usd(None, pue=1.5, price_usd_per_kwh=0.2) is None


def test_the_interval_of_three_values_uses_students_t_of_two_degrees_of_freedom():
    """1, 2, 3: mean 2, sd 1, half width 4.302653 / sqrt(3)."""
    assert mean_and_half_width([1, 2, 3]) == (2, pytest.approx(4.302653 / math.sqrt(3)))
    assert mean_and_half_width([5.0]) == (5.0, None)
    with pytest.raises(ValueError, match="0 values given; give at least one"):
        mean_and_half_width([])


def test_the_interval_of_om_perf_is_that_of_its_standard_error_where_errors_are_small():
    scores = [_score("a", 0.60, 0.80), _score("b", 0.30, 0.50)]
    found = om_perf(scores)
    assert found.ratio is not None and found.stderr is not None
    assert found.low == pytest.approx(found.ratio - 1.96 * found.stderr, abs=0.002)
    assert found.high == pytest.approx(found.ratio + 1.96 * found.stderr, abs=0.002)
    assert om_perf(scores) == found


def test_the_interval_is_lopsided_where_the_teachers_score_is_small():
    found = om_perf([_score("a", 0.10, 0.10, (0.0, 0.03), chance=0.0)])
    assert found.low is not None and found.high is not None
    assert found.high - 1 > 1.5 * (1 - found.low)


def test_a_score_without_a_standard_error_leaves_om_perf_without_an_interval():
    found = om_perf([_score("a", 0.60, 0.80, (None, 0.01))])
    assert (found.low, found.high) == (None, None) and found.ratio == pytest.approx(0.75)


def test_water_is_that_of_the_computers_kilowatt_hours_and_unknown_without_a_figure():
    """2 kWh at 0.12 L/kWh."""
    assert water_l(7.2e6, wue_l_per_kwh=0.12) == pytest.approx(0.24)
    assert water_l(7.2e6, wue_l_per_kwh=None) is None
    assert water_l(None, wue_l_per_kwh=0.12) is None


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_s_t_is_the_same_without_scipy(confidence: float, monkeypatch: pytest.MonkeyPatch):
    for degrees in (1, 1.3, 2, 2.7, 9, 30, 201.5, 1e4, math.inf):
        expected = student_t.t_quantile(degrees, confidence)
        with monkeypatch.context() as patch:
            patch.setattr(student_t, "find_spec", lambda name: None)
            found = student_t.t_quantile(degrees, confidence)
        assert found == pytest.approx(expected, rel=1e-9)
