"""serving.json with known figures, written with the record classes that real servers use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_json, write_json
from kdwatts.records.serving_record import (
    Capacity,
    EngineRecord,
    Figure,
    Percentiles,
    ServingPoint,
    ServingRecord,
)

VLLM = EngineRecord("vllm", "0.32.0", ["--max-num-seqs=64"], "bfloat16", None)
TRANSFORMERS = EngineRecord("transformers", "5.23.0", [], "float32", None)
WORKLOAD: dict[str, object] = {
    "prompt_tokens": 48, "prompt_tokens_p95": None, "output_tokens": 32,
    "output_tokens_p95": None, "length": "forced", "prompts": None,
}  # fmt: skip
SLO = {"ttft_p99_s": 0.5, "tpot_p99_s": 0.05, "e2e_p99_s": None}


def figure(value: float | None, *, half: float | None = None, degrees: float = 19.0) -> Figure:
    """A measured figure, by default with 2 % as half of its interval."""
    if value is None:
        return Figure(None)
    half = 0.02 * value if half is None else half
    return Figure(value, value - half, value + half, half / 2.093, 0.0, degrees, "measured")


def plain(value: float | None, *, share: float = 0.05) -> Figure:
    """A figure that no meter measured, with ends that are a share apart."""
    if value is None:
        return Figure(None)
    return Figure(value, value * (1 - share), value * (1 + share))


def point(
    level: float,
    j_per_output_token: float,
    *,
    load: str = "closed",
    verdict: str = "steady",
    ttft_s: float = 0.1,
    tpot_s: float = 0.02,
    tokens_per_s: float = 100.0,
    **changes: Any,
) -> ServingPoint:
    """A load of 48 tokens in and 32 out. So J/token is 0.4 of J/output token, J/request 32 of it.

    Watts are joules times tokens a second.
    """
    watts = j_per_output_token * tokens_per_s
    tokens = round(tokens_per_s * 30)
    found = ServingPoint(
        load=load, level=level, verdict=verdict, seed=0, duration_s=30.0, warm_up_s=4.0,
        completed=tokens // 32, failed=0, prompt_tokens=tokens * 48 // 32, output_tokens=tokens,
        energy_j={"gpu": watts * 30, "cpu": None, "dram": None}, energy_quality="measured",
        scope="gpu", j_per_output_token=figure(j_per_output_token),
        j_per_token=figure(j_per_output_token * 0.4),
        j_per_request=figure(j_per_output_token * 32), power_w=figure(watts),
        ttft_s=Percentiles(plain(ttft_s / 2), plain(ttft_s * 0.8), plain(ttft_s)),
        tpot_s=Percentiles(plain(tpot_s / 2), plain(tpot_s * 0.8), plain(tpot_s)),
        e2e_s=Percentiles(*(plain(ttft_s + 31 * tpot_s) for _ in range(3))),
        requests_per_s=plain(tokens_per_s / 32), goodput_per_s=plain(tokens_per_s / 33),
        good_share=plain(0.98, share=0.01), output_tokens_per_s=plain(tokens_per_s),
        mean_in_flight=level, send_lag_p99_s=0.001, server_cpu_s=3.0, client_cpu_s=0.5,
    )  # fmt: skip
    return replace(found, **changes)


STUDENT = [
    point(1, 2.0, ttft_s=0.05, tpot_s=0.010),
    point(4, 0.8, ttft_s=0.08, tpot_s=0.012, tokens_per_s=320),
    point(16, 0.4, ttft_s=0.20, tpot_s=0.020, tokens_per_s=900),
]
TEACHER = [
    point(1, 4.0, ttft_s=0.10, tpot_s=0.022),
    point(4, 2.0, ttft_s=0.15, tpot_s=0.030, tokens_per_s=160),
    point(16, 1.2, ttft_s=0.90, tpot_s=0.060, tokens_per_s=300, verdict="saturated"),
]
"""At 1 and 4 requests at once the teacher takes 2 and 2.5 times the student's joules."""


def record(
    subject: str,
    points: Sequence[ServingPoint],
    *,
    engine: EngineRecord = VLLM,
    key: str | None = "",
    **changes: Any,
) -> ServingRecord:
    """A server with an SLO; its key is that of the subject where none is given."""
    found = ServingRecord(
        subject=subject, engine=engine, workload=WORKLOAD, slo=SLO, points=list(points),
        parking_power_w=figure(80.0), bare_power_w=figure(60.0),
        key=f"{engine.name}-{subject}" if key == "" else key,
        gpus=["NVIDIA H100 80GB HBM3"], started_utc="2026-11-30T06:00:00Z",
    )  # fmt: skip
    return replace(found, **changes)


def capacity(per_s: float | None, verdict: str = "found", *tried: ServingPoint) -> Capacity:
    above = None if per_s is None or verdict != "found" else 1.25 * per_s
    return Capacity(per_s, above, verdict, list(tried))


def write_under_load(folder: Path, *records: ServingRecord) -> Path:
    """The folder with serving.json, to which the records are added."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "serving.json"
    before = read_json(path) if path.exists() else []
    write_json(path, [*before, *map(asdict, records)])
    return folder


def write_pair(folder: Path, **changes: Any) -> Path:
    """The folder with STUDENT and TEACHER behind one engine; `changes` are of both records."""
    return write_under_load(
        folder,
        record("student", STUDENT, **changes),
        record("teacher", TEACHER, **changes),
    )
