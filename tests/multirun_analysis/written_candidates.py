"""Servers of known power and capacity below some runs, and the traffic that they get.

The figures are those of the answer that docs/how_to/size_a_service.md works out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdwatts.metrics.fleet import Stretch
from kdwatts.records.serving_record import (
    EngineRecord,
    Figure,
    Percentiles,
    ServingPoint,
    ServingRecord,
)
from kdwatts.traffic.traffic_summary import TokenLengths, TrafficSummary
from tests.multirun_analysis.written_runs import write_run
from tests.multirun_analysis.written_serving import (
    VLLM,
    capacity,
    plain,
    point,
    record,
    write_under_load,
)

READ, WRITTEN = 600, 250
TEACHER_W = {0.0: 150.0, 1.0: 300.0, 3.0: 450.0, 4.0: 500.0}
STUDENT_W = {0.0: 120.0, 2.0: 220.0, 6.0: 360.0, 10.0: 480.0}
"""Power of one replica by its requests a second; at 0 it is parked."""
INT4 = EngineRecord("vllm", "0.32.0", ["--max-num-seqs=64"], "bfloat16", "int4")
SLO = {"ttft_p99_s": 0.5, "tpot_p99_s": 0.05, "e2e_p99_s": None}
LIMITS = ("--slo-ttft-p99-s", "0.5", "--slo-tpot-p99-s", "0.05")

DAY = TrafficSummary(
    "kdwatts", "0" * 64, 403_200, 0, 86_400.0,
    (*(Stretch(3600.0, 10.0) for _ in range(8)), *(Stretch(3600.0, 2.0) for _ in range(16))),
    12.0, 300.0, 1.2, 1.1, TokenLengths(600.0, 512.0, 1500.0, 2400.0),
    TokenLengths(250.0, 210.0, 600.0, 900.0), 1234,
)  # fmt: skip
"""8 hours of 10 requests a second, and 16 of 2; 12 in the busiest five minutes."""


def known(watts: float, error: float) -> Figure:
    """Power with a standard error that many measurements tell, and 1 % of calibration."""
    half = 1.96 * error
    return Figure(watts, watts - half, watts + half, error, 0.01 * watts, None, "measured")


def served(
    subject: str,
    powers_w: Mapping[float, float],
    most_per_s: float | None,
    *,
    error_w: float,
    engine: EngineRecord = VLLM,
    tpot_s: float = 0.02,
    **changes: Any,
) -> ServingRecord:
    """A server of one GPU by its rates, with its capacity."""
    rates = [rate for rate in powers_w if rate]
    points = [_point(rate, powers_w[rate], error_w, max(rates), tpot_s) for rate in rates]
    workload = {"prompt_tokens": READ, "output_tokens": WRITTEN, "length": "forced"}
    workload |= {"prompt_tokens_p95": None, "output_tokens_p95": None, "prompts": None}
    verdict = "none" if most_per_s is None else "found"
    parked = known(powers_w[0.0], error_w) if 0.0 in powers_w else Figure(None)
    about = {"workload": workload, "slo": SLO, "capacity": capacity(most_per_s, verdict)}
    about |= {"parking_power_w": parked, "key": f"{subject}-{engine.quantization}"}
    return record(subject, points, engine=engine, **about | changes)


def _point(
    rate_per_s: float, watts: float, error_w: float, most_per_s: float, tpot_s: float
) -> ServingPoint:
    tokens_per_s = WRITTEN * rate_per_s
    use = rate_per_s / most_per_s
    a_request = known(watts / rate_per_s, error_w / rate_per_s)
    a_token = known(watts / tokens_per_s, error_w / tokens_per_s)
    whole = (READ + WRITTEN) * rate_per_s
    found = point(
        rate_per_s, watts / tokens_per_s, load="poisson", tokens_per_s=tokens_per_s,
        ttft_s=0.1 + 0.35 * use, tpot_s=tpot_s * (1 + use), power_w=known(watts, error_w),
        j_per_request=a_request, j_per_good_request=a_request,
        j_per_token=known(watts / whole, error_w / whole), requests_per_s=plain(rate_per_s),
        completed=int(30 * rate_per_s), prompt_tokens=int(30 * READ * rate_per_s),
        output_tokens=int(30 * tokens_per_s), goodput_per_s=plain(0.995 * rate_per_s),
        e2e_s=Percentiles(*(plain(0.45 + WRITTEN * tpot_s * (1 + use)) for _ in range(3))),
    )  # fmt: skip
    return replace(found, j_per_output_token=a_token)


TEACHER = served("teacher", TEACHER_W, 4.0, error_w=3.0)
STUDENT = served("student", STUDENT_W, 10.0, error_w=2.0, tpot_s=0.01)
TEACHER_INT4 = served(
    "teacher", {0.0: 110.0, 1.0: 230.0, 4.0: 400.0, 6.0: 460.0}, 6.0, error_w=3.0, engine=INT4
)

BUILT: dict[str, Any] = {
    "own_energy_j": 720e6, "own_energy_random_sd_j": 3.6e6, "own_energy_shared_sd_j": 7.2e6,
    "own_energy_uncertainty_j": 8.05e6, "inherited_energy_j": 0.0,
    "inherited_energy_by_artifact_j": {}, "inherited_energy_random_sd_j": 0.0,
    "inherited_energy_shared_sd_j": 0.0,
}  # fmt: skip
"""Building of the student: 720 MJ, with a standard error of 3.6 MJ and 1 % of calibration."""


def write_served_run(folder: Path, *records: ServingRecord, **changes: Any) -> Path:
    """A run whose student and teacher were served; `changes` are of its metrics."""
    kept = {"accuracy_kept_low": 0.90, "accuracy_kept_high": 0.96}
    write_run(folder, **{"student_key": folder.name, **BUILT, **kept, **changes})
    return write_under_load(folder, *(records or (STUDENT, TEACHER)))


def write_candidates(directory: Path) -> Path:
    """Four settings of two pairs, a teacher in four bits, and one student without a capacity."""
    write_served_run(directory / "0", STUDENT, TEACHER, TEACHER_INT4)
    write_served_run(
        directory / "1", STUDENT, TEACHER, TEACHER_INT4, paradigm="feature", accuracy_kept=0.97,
        accuracy_kept_low=0.95, accuracy_kept_high=0.99, own_energy_j=1.1e9,
    )  # fmt: skip
    write_served_run(
        directory / "2", STUDENT, TEACHER, TEACHER_INT4, paradigm="sft", accuracy_kept=0.41,
        accuracy_kept_low=0.37, accuracy_kept_high=0.45, own_energy_j=0.4e9,
    )  # fmt: skip
    slow = {0.0: 130.0, 1.0: 260.0, 2.0: 330.0}
    write_served_run(
        directory / "3", served("student", slow, None, error_w=4.0, key="slow"),
        served("teacher", TEACHER_W, 4.0, error_w=3.0, key="other-teacher"),
        model="a_teacher_with_a_long_name_8b_to_3b", accuracy_kept=0.99, accuracy_kept_low=0.98,
        accuracy_kept_high=1.0,
    )  # fmt: skip
    return directory


def write_log(path: Path, rates_per_s: Mapping[float, float], *, text: str = "") -> Path:
    """A log in our format: so many seconds of equal gaps for each rate, in order."""
    lines, begin_s = [], 0.0
    for seconds, rate in rates_per_s.items():
        for number in range(round(seconds * rate)):
            row = {"id": str(len(lines)), "t_s": begin_s + number / rate, "output_tokens": WRITTEN}
            row |= {"prompt": text} if text else {"prompt_tokens": READ}
            lines.append(json.dumps(row))
        begin_s += seconds
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
