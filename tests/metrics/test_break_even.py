"""Break-even against values worked by hand."""

from __future__ import annotations

import math

import pytest

from kdwatts.metrics.break_even import (
    Amount,
    BreakEven,
    energy_at_quality,
    students_to_break_even,
    tokens_to_break_even,
)
from kdwatts.metrics.efficiency import eff_overall, lifetime_efficiency


def test_tokens_are_the_extra_joules_over_what_each_token_saves():
    """1,000 J over 5 - 3 J a token are 500 tokens."""
    found = tokens_to_break_even(Amount(1000.0), Amount(5.0), Amount(3.0))
    assert found == BreakEven("reached", 500.0, 500.0, 500.0)


def test_relative_uncertainties_of_cost_and_gain_add_in_squares():
    """10 % of the cost and hypot(0.09, 0.12) / 2 = 7.5 % of the gain are 12.5 %."""
    found = tokens_to_break_even(Amount(1000.0, 100.0), Amount(5.0, 0.09), Amount(3.0, 0.12))
    assert found.value == 500
    assert found.low == pytest.approx(500 * (1 - 1.96 * 0.125))
    assert found.high == pytest.approx(500 * (1 + 1.96 * 0.125))


def test_an_interval_never_begins_below_no_token():
    assert tokens_to_break_even(Amount(10.0, 20.0), Amount(2.0), Amount(1.0)).low == 0


def test_a_student_that_costs_more_to_serve_is_never_repaid():
    assert tokens_to_break_even(Amount(10.0), Amount(1.0, 0.1), Amount(2.0, 0.1)).verdict == "never"
    assert tokens_to_break_even(Amount(10.0), Amount(1.0), Amount(1.0)).verdict == "never"


@pytest.mark.parametrize("student", [1.9, 2.1])
def test_a_gain_below_twice_its_uncertainty_settles_nothing_on_either_side(student: float):
    found = tokens_to_break_even(Amount(10.0), Amount(2.0, 0.1), Amount(student, 0.0))
    assert found == BreakEven("unresolved")


def test_what_was_not_measured_is_unknown_and_not_never():
    for amounts in (
        (Amount(None), Amount(2.0), Amount(1.0)),
        (Amount(1.0), Amount(None), Amount(1.0)),
        (Amount(1.0), Amount(2.0), Amount(None)),
    ):
        assert tokens_to_break_even(*amounts) == BreakEven("unknown")


def test_students_share_the_teacher_until_what_each_saves_repays_it():
    """A teacher of 600 J, students of 50 J where plain fine-tuning needs 200 J: four."""
    assert students_to_break_even(Amount(600.0), Amount(200.0), Amount(50.0)).value == 4


def test_a_quality_that_fine_tuning_never_has_is_not_reached():
    found = students_to_break_even(Amount(600.0), Amount(None), Amount(50.0))
    assert found.verdict == "not reached"


def test_a_distillation_that_costs_more_than_fine_tuning_never_repays_its_teacher():
    assert students_to_break_even(Amount(600.0), Amount(50.0), Amount(60.0)).verdict == "never"


def test_the_energy_at_a_quality_lies_between_the_readings_around_it():
    """Bits per byte fall from 4 at 100 J to 3 at 200 J: 3.25 at 175 J."""
    curve = [(200.0, 3.0), (100.0, 4.0), (300.0, 2.9)]
    assert energy_at_quality(curve, 3.25) == 175
    assert energy_at_quality(curve, 4.5) == 100
    assert energy_at_quality(curve, 2.8) is None
    assert energy_at_quality([], 1.0) is None


def test_the_first_time_counts_where_a_curve_comes_back():
    curve = [(1.0, 0.2), (2.0, 0.6), (3.0, 0.4), (4.0, 0.8)]
    assert energy_at_quality(curve, 0.4, higher_is_better=True) == 1.5


def test_lifetime_efficiency_tends_to_the_overall_efficiency():
    """OM_perf 0.9, 6 J a token against 2: 2.7 without the building, half at E / EPT_S tokens."""
    at = [lifetime_efficiency(0.9, 6.0, 2.0, 1000.0, tokens=tokens) for tokens in (0, 500, 1e12)]
    assert at[0] == 0
    assert at[1] == pytest.approx(1.35)
    assert at[2] == pytest.approx(eff_overall(0.9, 6.0, 2.0))
    assert lifetime_efficiency(0.9, 6.0, None, 1000.0, tokens=1) is None


def test_the_spread_of_ratios_drawn_at_random_is_the_one_that_is_stated():
    """Ten thousand draws of cost and gain: the formula's standard deviation within 3 %."""
    import random

    generator = random.Random(0)
    drawn = [
        generator.gauss(1000, 50) / (generator.gauss(5, 0.06) - generator.gauss(3, 0.08))
        for _ in range(10_000)
    ]
    mean = math.fsum(drawn) / len(drawn)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in drawn) / len(drawn))
    found = tokens_to_break_even(Amount(1000.0, 50.0), Amount(5.0, 0.06), Amount(3.0, 0.08))
    assert found.high is not None and found.value is not None
    assert (found.high - found.value) / 1.96 == pytest.approx(sd, rel=0.03)
