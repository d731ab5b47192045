"""The faults of an energy counter that the replaying NVML library plays."""

from __future__ import annotations

import pytest

LOOK = """
import pynvml
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
def look():
    before_s = time.monotonic()
    joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3
    return before_s, joules, time.monotonic()
looks = [look()]
for _ in range(2):
    time.sleep(0.3)
    looks.append(look())
print_json(looks)
"""

EXACT = {"counter_period_ms": 0, "counter_mj": 0}


@pytest.mark.parametrize("mj_per_j, factor", [(1300, 1.3), (1, 0.001), (1_000_000, 1000)])
def test_a_lying_counter_counts_by_its_scale(start_script, mj_per_j, factor):
    first, _, last = start_script(LOOK, [(0, 1000)], mj_per_j=mj_per_j, **EXACT).finish()
    (low_s, high_s), drawn_j = (last[0] - first[2], last[2] - first[0]), last[1] - first[1]
    assert factor * 1000 * low_s - 0.002 <= drawn_j <= factor * 1000 * high_s + 0.002


def test_a_stuck_counter_moves_until_its_time_and_never_after(start_script):
    looks = start_script(LOOK, [(0, 1000)], counter_stuck_s=0.2, **EXACT).finish()
    assert [joules for _, joules, _ in looks[1:]] == [200, 200]
