"""The energy of a window from its components, and over windows, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from kdwatts.metrics.quantity import MISSING_J, Quantity, add, from_whole_sd
from kdwatts.metrics.window_energy import waiting_energy, window_energy, window_net_energy_j
from kdwatts.records.schema import StageRow

Component = tuple[float | None, str, float | None]
"""Joules, quality, and one standard deviation."""


def row_of(**components: Component) -> dict[str, dict[str, float | str | None]]:
    """The fields of a window's row, as one of an older version holds them."""
    names = ("energy_j", "quality", "uncertainty_j")
    return {name: {c: parts[i] for c, parts in components.items()} for i, name in enumerate(names)}


def shared(value: float, sd: float | None, quality: str = "measured") -> Quantity:
    """Joules whose error is all the meter's."""
    return Quantity(value, None if sd is None else 0.0, sd, "J", quality)


def test_measured_components_add_and_their_uncertainties_add_in_squares():
    total = window_energy(
        row_of(
            gpu=(1000, "measured", 30.0), cpu=(200, "measured", 40.0), dram=(None, "missing", None)
        )
    )
    assert total == shared(1200, 50)


def test_an_estimate_is_never_added_to_a_measurement():
    total = window_energy(row_of(gpu=(1000, "measured", 30.0), cpu=(200, "estimated", 40.0)))
    assert total == shared(1000, 30)


def test_an_estimate_stands_alone_where_nothing_was_measured():
    total = window_energy(row_of(gpu=(None, "missing", None), cpu=(200, "estimated", 40.0)))
    assert total == shared(200, 40, "estimated")


def test_a_window_with_an_attributed_part_is_attributed():
    total = window_energy(row_of(gpu=(1000, "measured", 3.0), cpu=(200, "attributed", 4.0)))
    assert total == shared(1200, 5, "attributed")


def test_a_measured_zero_counts_and_a_missing_component_does_not_become_zero():
    assert window_energy(row_of(gpu=(0.0, "measured", 0.0))) == shared(0.0, 0.0)
    nothing = row_of(gpu=(None, "missing", None), cpu=(None, "missing", None))
    assert window_energy(nothing) == window_energy(row_of()) == MISSING_J


def test_one_unknown_uncertainty_makes_that_of_the_sum_unknown():
    total = window_energy(row_of(gpu=(1000, "measured", 30.0), cpu=(200, "measured", None)))
    assert (total.value, total.sd, total.random_sd, total.shared_sd) == (1200, None, None, None)


def test_the_calibrations_of_two_sensors_are_two_errors():
    """hypot(30, 40) is shared; hypot(60, 20) less that in squares is random: sqrt(1500)."""
    row = row_of(gpu=(1000, "measured", 60.0), cpu=(200, "measured", 20.0))
    total = window_energy(row | {"shared_uncertainty_j": {"gpu": 30.0, "cpu": 40.0}})
    assert total.shared_sd == 50
    assert total.random_sd == pytest.approx(math.sqrt(1500))
    assert total.sd == pytest.approx(math.hypot(60, 20))


def test_the_net_energy_is_of_the_components_that_the_sum_adds():
    row = row_of(gpu=(1000, "measured", 30.0), cpu=(200, "estimated", 40.0))
    assert window_net_energy_j(row) is None
    assert window_net_energy_j(row | {"net_energy_j": {"gpu": 700.0, "cpu": None}}) == 700


def test_a_row_knows_its_own_sum_and_does_not_write_it():
    components = {"gpu": 1000.0, "cpu": 200.0, "dram": None}
    row = StageRow(
        window="run", parent=None, key=None, attempt=1, outcome="done", start_utc="", start_s=0.0,
        duration_s=10.0, data_wait_s=None, energy_j=components,
        method={"gpu": "nvml_counter", "cpu": "rapl", "dram": None},
        quality={"gpu": "measured", "cpu": "measured", "dram": "missing"},
        uncertainty_j={"gpu": 50.0, "cpu": 10.0, "dram": None}, coverage={}, idle_power_w={},
        net_energy_j={"gpu": 400.0, "cpu": 150.0, "dram": None},
    )  # fmt: skip
    written = json.loads(json.dumps(asdict(row)))
    assert "energy" not in written and "total_net_energy_j" not in written
    assert row.energy == window_energy(written)
    assert (row.energy.value, row.total_net_energy_j) == (1200, 550)


def test_windows_of_which_records_hold_one_error_add_as_the_meter_errs():
    assert add([shared(100, 3), shared(50, 4)]) == shared(150, 7)


def test_one_missing_attempt_makes_the_sum_missing_and_not_smaller():
    assert add([shared(100, 3), MISSING_J]) == MISSING_J


def test_calibration_adds_over_windows_as_it_is_and_the_rest_in_squares():
    """3 and 4 J differ from window to window: 5. The meter's 5 and 10 J are one error: 15."""
    terms = [
        from_whole_sd(100, math.hypot(3, 5), 5, unit="J", quality="measured"),
        from_whole_sd(200, math.hypot(4, 10), 10, unit="J", quality="measured"),
    ]
    total = add(terms)
    assert total.shared_sd == 15
    assert total.sd == pytest.approx(math.hypot(5, 15))


def test_an_error_that_a_record_does_not_tell_apart_is_the_meters():
    whole, apart = (from_whole_sd(100, 5, part, unit="J", quality="measured") for part in (None, 4))
    assert (whole.random_sd, whole.shared_sd) == (0, 5)
    assert (apart.random_sd, apart.shared_sd) == (3, 4)


def test_a_sum_of_different_qualities_is_called_mixed_and_a_sum_of_nothing_is_zero():
    total = add([shared(100, None), shared(50, 4, "estimated")])
    assert (total.value, total.sd, total.quality) == (150, None, "mixed")
    assert add([], unit="J") == Quantity(0.0, 0.0, 0.0, "J")


def share_of(*, waits: bool, **components: Component) -> dict:
    row = row_of(**components)
    return {**row, "waits": waits, "shared_uncertainty_j": row["uncertainty_j"]}


def test_the_energy_of_waiting_is_that_of_the_nodes_that_wait():
    nodes = [
        share_of(waits=False, gpu=(900, "measured", 45.0), cpu=(50, "measured", 0.0)),
        share_of(waits=True, gpu=(100, "measured", 3.0), cpu=(20, "measured", 4.0)),
        share_of(waits=True, gpu=(200, "measured", 6.0), cpu=(30, "attributed", 8.0)),
    ]
    row = row_of(gpu=(1200, "measured", 54.0), cpu=(100, "attributed", 12.0)) | {"nodes": nodes}
    # Calibration adds up over nodes: hypot(3, 4) + hypot(6, 8).
    assert waiting_energy(row) == shared(350, 15.0, "attributed")


def test_nobody_waits_in_a_row_of_one_node_and_of_nodes_that_work_together():
    row = row_of(gpu=(1200, "measured", 54.0))
    works = share_of(waits=False, gpu=(600, "measured", 27.0))
    for one in (row, row | {"nodes": []}, row | {"nodes": [works, works]}):
        assert waiting_energy(one) == Quantity(0.0, 0.0, 0.0, "J")


def test_waiting_is_missing_where_the_sum_over_nodes_is():
    nodes = [
        share_of(waits=False, gpu=(900, "measured", 45.0)),
        share_of(waits=True, gpu=(None, "missing", None)),
    ]
    assert waiting_energy(row_of(gpu=(None, "missing", None)) | {"nodes": nodes}) == MISSING_J


def test_waiting_counts_only_what_the_sum_counts():
    nodes = [
        share_of(waits=False, gpu=(900, "measured", 45.0), cpu=(None, "missing", None)),
        share_of(waits=True, gpu=(100, "measured", 5.0), cpu=(20, "measured", 1.0)),
    ]
    row = row_of(gpu=(1000, "measured", 50.0), cpu=(None, "missing", None)) | {"nodes": nodes}
    assert waiting_energy(row) == shared(100, 5.0)
