"""Axes of figures."""

from __future__ import annotations

import pytest

from multirun_analysis.figures.marks import log_axis


def test_a_value_of_0_leaves_a_logarithmic_axis_three_decades():
    axis = log_axis(0.0, 100.0)
    assert axis["range"] == pytest.approx([-1 - 0.12, 2 + 0.12])
    assert log_axis(0.0, 0.0) == {"type": "log"}
