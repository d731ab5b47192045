"""Axes of figures."""

from __future__ import annotations

import pytest

from multirun_analysis.figures.marks import first_of_each, log_axis, thin


def test_a_value_of_0_leaves_a_logarithmic_axis_three_decades():
    axis = log_axis(0.0, 100.0)
    assert axis["range"] == pytest.approx([-1 - 0.12, 2 + 0.12])
    assert log_axis(0.0, 0.0) == {"type": "log"}


def test_one_of_each_setting_is_drawn_before_further_seeds():
    runs = [{"run": f"{group}{seed}", "group": group} for group in "ab" for seed in range(3)]
    assert [run["run"] for run in first_of_each(runs, 3)] == ["a0", "a1", "b0"]


def test_thinning_keeps_both_ends():
    assert thin(3, 5) == [0, 1, 2]
    assert thin(101, 5) == [0, 25, 50, 75, 100]


def test_ticks_of_a_logarithmic_axis_are_plain_numbers():
    assert log_axis(1, 100)["ticktext"] == ["1", "2", "5", "10", "20", "50", "100"]
    assert log_axis(1e3, 1e7, prefixed=True)["ticktext"] == ["1 k", "10 k", "100 k", "1 M", "10 M"]
    assert log_axis(60, 60)["ticktext"] == ["60"]
