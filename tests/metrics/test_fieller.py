"""Fieller's interval against a search over a grid of ratios."""

from __future__ import annotations

import random

import pytest

from kdwatts.metrics.fieller import Interval, ratio_interval


def _in_the_set(ratio: float, a: float, a_half: float, b: float, b_half: float) -> bool:
    return (a - ratio * b) ** 2 <= a_half**2 + ratio**2 * b_half**2


def test_every_ratio_of_a_grid_is_inside_the_ends_or_outside_the_set():
    """200 random pairs, 801 ratios each: the two ways of asking agree."""
    generator = random.Random(0)
    seen = set()
    for _ in range(200):
        a, b = generator.uniform(0.1, 5), generator.uniform(-3, 3)
        a_half, b_half = generator.uniform(0, 2), generator.uniform(0, 2)
        found = ratio_interval(a, a_half, b, b_half)
        ratios = [0.05 * step for step in range(-400, 401)]
        inside = [r for r in ratios if _in_the_set(r, a, a_half, b, b_half)]
        seen.add((found.is_bounded, found.low is None))
        if found.is_bounded:
            assert found.low is not None and found.high is not None
            assert all(found.low - 1e-9 <= r <= found.high + 1e-9 for r in inside)
            assert all(r in inside for r in ratios if found.low + 1e-9 < r < found.high - 1e-9)
        elif found.low is not None:
            assert not [r for r in inside if 0 < r < found.low - 1e-9]
            assert all(r in inside for r in ratios if r > found.low + 1e-9)
    assert seen == {(True, False), (False, False), (False, True)}


def test_the_set_is_bounded_if_and_only_if_the_denominator_is_told_from_nothing():
    assert ratio_interval(4.0, 1.0, 2.0, 1.99).is_bounded
    assert not ratio_interval(4.0, 1.0, 2.0, 2.01).is_bounded
    assert not ratio_interval(4.0, 1.0, 2.0, 2.0).is_bounded


def test_exact_numbers_have_their_ratio_at_both_ends():
    assert ratio_interval(4.0, 0.0, 2.0, 0.0) == Interval(2.0, 2.0, 2.0)


def test_a_numerator_that_may_be_nothing_gives_ends_on_both_sides_of_nothing():
    found = ratio_interval(1.0, 2.0, 2.0, 0.5)
    assert found.low is not None and found.high is not None
    assert found.low < 0 < found.high


@pytest.mark.parametrize("denominator", [0.5, 0.0, -0.5])
def test_nothing_but_a_least_ratio_is_left_where_the_denominator_may_be_nothing(denominator: float):
    found = ratio_interval(4.0, 0.0, denominator, 1.0)
    assert found.high is None
    assert found.low == pytest.approx(4.0 / (denominator + 1.0))


def test_an_interval_in_another_unit_keeps_an_end_that_is_open():
    assert Interval(2.0, 1.5, None).times(1000) == Interval(2000.0, 1500.0, None)
    assert Interval(2.0, 1.5, None).half_width is None
    assert Interval(2.0, 1.5, 3.5).half_width == 1.0
