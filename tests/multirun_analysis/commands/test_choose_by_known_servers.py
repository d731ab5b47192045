"""From requests to a decision: servers of known power, measured as a run does it, then `choose`.

A slot is busy for 0.4 s a request. So power is P0 + e x rate with e = 0.4 s times the watts of a
busy slot, as long as no slot is lacking.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from tests.multirun_analysis.statistics.test_fleet_choice import add
from tests.serving.known_power import LATENCY_S, OUTPUT_TOKENS, PROMPT_TOKENS, Case, measure

pytestmark = pytest.mark.slow

RATE = 24.0
LIMIT_S = 2.0 * LATENCY_S
"""Of the last token: twice as long as an answer takes that never waits."""
BUILT_J = 5e5
LOADS = {"arrivals": "constant", "min_window_s": 60.0, "max_window_s": 90.0, "parking_s": 3.0}
"""Constant arrivals never wait for a slot and are steady at once. At 12 requests/s over 700 end in
the window: a p99 has an upper end from 299 on, and neighbours in time may be alike."""
KNOWN = {
    "student": {"slots": 16, "idle_w": 60.0, "busy_w": 50.0, "rates_per_s": [14.0, 19.0, 24.0]},
    "teacher": {"slots": 8, "idle_w": 100.0, "busy_w": 150.0, "rates_per_s": [12.0, 13.0, 14.0]},
}
REPLICAS = {"student": 2, "teacher": 3}
"""ceil(24 / (0.75 x 24)) and ceil(24 / (0.75 x 14)): at all of these rates slots are free, so each
load keeps the limit."""


def _case(subject: str, slots: int, idle_w: float, busy_w: float, rates_per_s: list) -> Case:
    return Case(
        subject,
        LOADS | {"rates_per_s": rates_per_s},
        timetable={"slots": slots},
        power={"idle_w": idle_w, "reading_w": busy_w, "writing_w": busy_w},
    )


def _true_j_per_request(known: dict[str, Any], num_replicas: int) -> float:
    """n P(L/n) / L = n P0 / L + e."""
    return num_replicas * known["idle_w"] / RATE + known["busy_w"] * LATENCY_S


def test_replicas_joules_and_break_even_of_measured_servers_are_those_of_the_closed_formulas(
    make: Any, nvml_dir: Path, tmp_path: Path, capsys: Any
):
    cases = [_case(subject, **known) for subject, known in KNOWN.items()]
    measured = measure(nvml_dir, tmp_path / "power", cases)
    records = []
    for subject in KNOWN:
        record = measured[subject].record
        assert record is not None, measured[subject].error
        held = [point.level for point in record.points if point.verdict == "client_bound"]
        if held:
            pytest.skip(f"this machine was too busy to send {held} requests/s on time")
        records.append(replace(record, subject=subject, host="node7"))
    gpu_name = records[0].gpus[0]
    add(make, tmp_path / "runs" / "0", *records, own_energy_j=BUILT_J, gpu_name=gpu_name)
    assert main(["choose", str(tmp_path / "runs"), "--rate", str(RATE), "--json",
                 "--slo-e2e-p99-s", str(LIMIT_S)]) == 0  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    student, teacher = said["recommended"], said["teacher"]
    assert (student["subject"], teacher["subject"]) == ("student", "teacher")
    truth = {}
    for one in (student, teacher):
        known = KNOWN[one["subject"]]
        assert one["capacity_requests_per_s"] == max(known["rates_per_s"])
        assert one["capacity_is_lower_bound"]
        assert one["replicas"] == REPLICAS[one["subject"]]
        truth[one["subject"]] = _true_j_per_request(known, one["replicas"])
        low, high = one["j_per_request_interval"]
        assert low <= truth[one["subject"]] <= high
        assert one["j_per_request"] == pytest.approx(truth[one["subject"]], rel=0.1)
        assert one["parked_w"] == pytest.approx(one["replicas"] * known["idle_w"], rel=0.02)
    repaid = BUILT_J / (truth["teacher"] - truth["student"])
    assert student["requests_to_break_even_low"] <= repaid <= student["requests_to_break_even_high"]
    assert student["requests_to_break_even"] == pytest.approx(repaid, rel=0.25)
    length = PROMPT_TOKENS + OUTPUT_TOKENS
    assert student["tokens_to_break_even"] == pytest.approx(
        student["requests_to_break_even"] * length
    )
    assert student["days_to_break_even"] == pytest.approx(
        student["requests_to_break_even"] / (RATE * 86_400)
    )
