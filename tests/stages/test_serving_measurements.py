"""The figure of several measurements: run means, pooled where they are of one quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.artifact import ARTIFACT_NAME
from kdwatts.records.files import write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.stages.inference import COST_NAME
from kdwatts.stages.serving_measurements import Served, read_served


def cost(j_per_token: float | None, *, batch_size: int = 8, quality: str = "measured") -> Any:
    """What inference.json tells of one point: reading costs half of writing, 5 % is noise."""
    phase = {"interval_95_j": 0.1, "net_j_per_token": None, "quality": quality, "tokens": 9}
    total = None if j_per_token is None else 3 * j_per_token / 4
    return {
        "schema": SCHEMA,
        "subject": "student",
        "batch_size": batch_size,
        "prompt_tokens": 16,
        "new_tokens": 16,
        "prefill": {**phase, "j_per_token": j_per_token and j_per_token / 2},
        "decode": {**phase, "j_per_token": j_per_token},
        "total_j_per_token": total,
        "total_interval_95_j": total and 0.05 * total,
        "net_total_j_per_token": None,
        "quality": quality,
    }


POINT = (8, 16, 16)


def pooled(*costs: Any) -> Any:
    return Served("k", list(costs)).at(POINT)


def test_three_measurements_are_their_mean_with_student_s_interval_of_two_degrees():
    found = pooled(cost(4.0), cost(8.0), cost(12.0))
    assert found.measurements == 3
    assert found.cost["total_j_per_token"] == 6.0
    # Means 3, 6, 9: deviation 3, t[0.975, 2] = 4.303.
    assert found.cost["total_interval_95_j"] == pytest.approx(4.303 * 3 / 3**0.5, rel=1e-3)
    assert found.cost["decode"]["j_per_token"] == 8.0
    assert found.cost["prefill"]["j_per_token"] == 4.0
    assert found.cost["decode"]["interval_95_j"] == pytest.approx(4.303 * 4 / 3**0.5, rel=1e-3)
    assert found.cost["net_total_j_per_token"] is None


def test_one_measurement_has_the_interval_of_its_own_repeats():
    found = pooled(cost(4.0))
    assert found.measurements == 1
    assert found.cost["total_interval_95_j"] == pytest.approx(0.15)


def test_an_estimate_is_not_pooled_with_measurements_nor_is_what_is_missing():
    found = pooled(
        cost(100.0, quality="estimated"), cost(4.0), cost(None, quality="missing"), cost(8.0)
    )
    assert found.measurements == 2
    assert found.cost["total_j_per_token"] == 4.5
    assert found.cost["quality"] == "measured"
    assert pooled(cost(None, quality="missing")).cost["total_j_per_token"] is None


def test_a_share_of_a_node_is_pooled_with_measurements_and_names_the_mean():
    found = pooled(cost(8.0, quality="attributed"), cost(4.0), cost(9.0, quality="estimated"))
    assert found.measurements == 2
    assert (found.cost["total_j_per_token"], found.cost["quality"]) == (4.5, "attributed")


def test_no_measurement_is_no_figure():
    served = Served("k", [])
    assert served.at(POINT) is None
    assert served.range_j_per_token() == (None, None)


def test_the_range_is_that_of_pooled_figures_over_the_points():
    rows = [
        cost(j, batch_size=batch)
        for batch, joules in ((1, (16.0, 8.0)), (8, (4.0, 4.0)))
        for j in joules
    ]
    assert Served("k", rows).range_j_per_token() == (3.0, 9.0)
    rows.append(cost(None, batch_size=64, quality="missing"))
    assert Served("k", rows).range_j_per_token() == (None, None)


def test_rows_of_the_store_are_told_with_number_and_key_of_their_measurement(tmp_path: Path):
    folders = {}
    for number, key in ((1, "k"), (3, "k3")):
        folders[number] = tmp_path / key
        folders[number].mkdir()
        write_json(folders[number] / ARTIFACT_NAME, {"schema": SCHEMA, "key": key})
        write_json(folders[number] / COST_NAME, [cost(4.0)])
    served = read_served(folders, "k")
    assert served.key == "k"
    assert [(row["measurement"], row["key"]) for row in served.rows] == [(1, "k"), (3, "k3")]
