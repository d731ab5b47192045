"""What is known of a setting that may be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.candidates import candidates
from multirun_analysis.values.rows import distinct_students


@pytest.mark.parametrize(("most", "told"), [(0.004, None), (0.03, (0.004, 0.03))])
def test_a_single_point_has_no_range(make: Any, tmp_path: Path, most: float, told: Any):
    """What one run measured at it is not around the figure that several runs pool."""
    make.run(
        tmp_path / "0",
        student_total_j_per_token_least=0.004,
        student_total_j_per_token_most=most,
    )
    (found,) = candidates(distinct_students(collect([tmp_path]).runs), tokens=1e9)
    assert found.grid == told
