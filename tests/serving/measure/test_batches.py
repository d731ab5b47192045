"""Errors of ratios over time, and the cut of a start."""

from __future__ import annotations

import numpy as np
import pytest

from kdwatts.serving.measure.batches import batch_ratio, in_pairs, neighbour_correlation
from kdwatts.serving.measure.steady_start import mser_5


def test_the_error_of_a_ratio_is_that_of_its_residuals():
    """r = 60 / 6 = 10; residuals -2, 2, 0; s = 2; s / (sqrt(3) x 2) = 0.577."""
    found = batch_ratio([18.0, 22.0, 20.0], [2.0, 2.0, 2.0], unit="J")
    assert found.value == 10.0
    assert found.random_sd == pytest.approx(2 / (3**0.5 * 2))
    assert found.degrees == 2


def test_batches_of_unequal_work_but_one_ratio_have_no_error():
    found = batch_ratio([10.0, 30.0, 20.0], [1.0, 3.0, 2.0])
    assert (found.value, found.random_sd) == (10.0, 0.0)


def test_one_batch_has_no_error_and_no_work_has_no_ratio():
    assert batch_ratio([10.0], [2.0]).random_sd is None
    assert batch_ratio([10.0, 10.0], [0.0, 0.0]).value is None


def test_neighbours_that_are_alike_are_joined():
    """80 values in 20 runs of 4 that are equal: at most 40 batches remain."""
    noise = np.random.default_rng(0).normal(size=20)
    found = batch_ratio(np.repeat(100 + noise, 4).tolist(), [1.0] * 80)
    assert found.degrees <= 39
    assert found.random_sd == pytest.approx(noise.std(ddof=1) / 20**0.5, rel=0.4)
    alone = batch_ratio(np.repeat(100 + noise, 4).tolist(), [1.0] * 80, have_memory=False)
    assert alone.degrees == 79
    assert alone.random_sd == pytest.approx(noise.std(ddof=1) / 80**0.5, rel=0.05)


def test_an_odd_batch_is_joined_to_the_last_pair():
    assert in_pairs(np.arange(5.0)).tolist() == [1.0, 9.0]
    assert in_pairs(np.arange(4.0)).tolist() == [1.0, 5.0]


def test_neighbours_of_a_line_correlate_and_those_of_a_comb_do_not():
    assert neighbour_correlation(np.arange(20.0)) > 0.8
    assert neighbour_correlation(np.array([1.0, -1.0] * 10)) < -0.9
    assert neighbour_correlation(np.ones(5)) == 0.0


@pytest.mark.parametrize("memory", [0.0, 0.3, 0.6])
def test_the_interval_holds_the_mean_of_a_process_with_memory_in_89_of_100_cases(memory):
    """A first-order autoregressive process of 40 values, whose mean is true. Values that count as
    independent would hold it in 67 of 100 cases at a memory of 0.6."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        value, values = 0.0, []
        for step in generator.normal(size=60):
            value = memory * value + step
            values.append(value)
        found = batch_ratio(values[20:], [1.0] * 40)
        held += abs(found.number) <= (found.random_half_width or 0.0)
    assert held >= 356


def test_mser_5_cuts_a_start_that_is_not_like_the_rest():
    noise = np.random.default_rng(0).normal(size=100)
    start = np.r_[np.full(20, 50.0), np.zeros(80)]
    assert 20 <= mser_5(noise + start) <= 50


def test_mser_5_cuts_nothing_of_what_is_constant_or_too_short():
    assert mser_5(np.ones(100)) == 0
    assert mser_5([1.0, 9.0, 1.0]) == 0


def test_mser_5_keeps_two_batches_as_one_has_no_error():
    assert mser_5(np.arange(10.0)) == 0
    assert mser_5([9.0] * 5 + [1.0, 1.1] * 5) == 5


def test_mser_5_cuts_at_most_half():
    assert mser_5(np.arange(100.0)) == 50
