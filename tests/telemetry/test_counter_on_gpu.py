"""The script that holds a GPU's counter against its power, on the replaying NVML library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gpu.test_records import rehearse


@pytest.mark.slow
def test_the_counter_of_a_replayed_gpu_is_the_integral_of_its_power(tmp_path: Path, nvml_dir: Path):
    trace = tmp_path / "trace.txt"
    trace.write_text("0 250\n600 250\n")
    told = rehearse(
        tmp_path / "out",
        *("--parts", "counter"),
        LD_LIBRARY_PATH=str(nvml_dir),
        NVML_REPLAY_TRACE=str(trace),
    )
    assert "counter took" in told and "status 0" in told
    record = json.loads((tmp_path / "out" / "counter.json").read_text())
    assert {row["method"] for row in record["windows"]} == {"nvml_counter"}
    # As the meter flags them: samples of a busy machine come late.
    for row in record["windows"]:
        assert abs(row["difference_pct"]) < (2 if row["duration_s"] >= 10 else 5), row
    assert all(abs(row["power_w"] - 250) < 5 for row in record["windows"])
    # The library renews its counter each 20 ms; who polls late sees it later, never earlier.
    assert record["renewals"]["energy_counter_j"]["median_ms"] > 15
