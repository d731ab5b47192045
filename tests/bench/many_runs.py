"""Folders of many runs that never ran, in the records' true form: for benches and for tests."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson

from kdwatts.records.files import write_json
from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import SCHEMA, Score, TelemetryRow
from tests.multirun_analysis.written_runs import METRICS, stage_row, status, write_run

PARADIGMS = ("sft", "response", "feature", "relational", "combined")
SEEDS = 5
TICK_S = 0.1
STAGES = ("shards", "teacher", "distill", "evaluate_student", "inference_student")
STEPS = 400
TASKS = ("arc_easy", "arc_challenge", "hellaswag", "mmlu", "gsm8k", "truthfulqa_mc2")


def write_runs(
    directory: Path, *, num_runs: int, rows_per_run: int, num_workers: int = 1
) -> list[Path]:
    """Folders of a sweep over paradigms, temperatures and seeds.

    Of a hundred runs two failed, one is said to be running and two have a torn last line of
    telemetry; of fifty, one is the student of another again.
    """
    write = partial(write_one, directory, rows_per_run=rows_per_run)
    if num_workers == 1:
        return [write(number) for number in range(num_runs)]
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(write, range(num_runs), chunksize=8))


def write_one(directory: Path, number: int, *, rows_per_run: int) -> Path:
    """One run's folder; the same number gives the same bytes."""
    chance = random.Random(number)
    student = number - 1 if number % 50 == 49 else number
    setting, seed = divmod(student, SEEDS)
    paradigm = PARADIGMS[setting % len(PARADIGMS)]
    own_j = chance.uniform(2e5, 6e5)
    metrics = replace(
        METRICS,
        paradigm=paradigm,
        seed=seed,
        own_energy_j=own_j,
        own_energy_uncertainty_j=own_j / 20,
        om_perf=chance.uniform(0.85, 1.0),
        student_bits_per_byte=chance.uniform(0.95, 1.2),
        student_decode_j_per_token=chance.uniform(0.04, 0.06),
        student_key=f"student-{student}",
    )
    ended = {7: "failed", 57: "failed", 31: "running"}.get(number % 100, "done")
    error = "RuntimeError: CUDA error: device lost" if ended == "failed" else None
    folder = write_run(
        directory / f"{number}-{paradigm}-tiny",
        state=status(ended, stage="inference" if ended == "done" else "distill", error=error),
        metrics=metrics if ended == "done" else None,
        overrides=(f"paradigm.temperature={setting // len(PARADIGMS)}",),
    )
    _write_telemetry(folder / "telemetry.jsonl", chance, rows_per_run, torn=number % 50 == 13)
    _write_stages(folder / "stages.jsonl", metrics)
    _write_losses(folder / "train.jsonl", chance)
    if ended == "done":
        write_json(folder / "eval.json", _scores(chance))
        write_json(folder / "inference.json", _costs(chance))
    return folder


def _write_lines(path: Path, rows: list[Any], *, tail: bytes = b"") -> None:
    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    path.write_bytes(b"".join(lines) + tail)


def _write_telemetry(path: Path, chance: random.Random, num_rows: int, *, torn: bool) -> None:
    """GPU, processor and memory ten times a second, with the slow quantities and the host once."""
    blanks = {
        kind: asdict(TelemetryRow("", 0.0, 1, "", kind, index, uuid=uuid, method=method))
        for kind, index, uuid, method in (
            ("gpu", 0, "GPU-5f0c3b1e-aaaa-bbbb-cccc-0123456789ab", "nvml_counter"),
            ("cpu", 0, None, "rapl"),
            ("dram", 0, None, "rapl"),
            ("host", None, None, None),
        )
    }
    powers_w = {"gpu": 600.0, "cpu": 120.0, "dram": 20.0}
    counters_j = dict.fromkeys(powers_w, 1e6)
    rows: list[dict[str, Any]] = []
    tick = 0
    while len(rows) < num_rows:
        elapsed_s = tick * TICK_S
        stage = STAGES[min(len(STAGES) - 1, len(rows) * len(STAGES) // num_rows)]
        minute, second = divmod(elapsed_s, 60)
        told = {
            "time_utc": f"2025-11-14T{minute // 60:02.0f}:{minute % 60:02.0f}:{second:09.6f}+00:00",
            "window": f"run/{stage}",
        }
        slow = tick % 10 == 0
        for place, (kind, blank) in enumerate(blanks.items()):
            row = blank | told | {"monotonic_s": 5000 + elapsed_s + place * 1e-4}
            if kind == "host":
                row |= {"util_pct": chance.uniform(5, 30), "memory_used_gib": 31.25}
                row |= {"cpu_clock_mhz": 3200.0, "process_cpu_s": elapsed_s * 1.1}
            else:
                power_w = powers_w[kind] * chance.uniform(0.8, 1.1)
                counters_j[kind] += power_w * TICK_S
                row |= {"power_w": power_w, "energy_counter_j": counters_j[kind]}
            if kind == "gpu" and slow:
                row |= {"util_pct": 97.0, "memory_used_gib": 61.5, "temperature_c": 64.0}
                row |= {"sm_clock_mhz": 1755.0, "throttle_reasons": 4, "power_limit_w": 700.0}
            if kind != "host" or slow:
                rows.append(row)
        tick += 1
    _write_lines(path, rows[:num_rows], tail=b'{"time_utc": "2025-11-14T0' if torn else b"")


def _write_stages(path: Path, metrics: Metrics) -> None:
    """Windows of every stage, and those inside it."""
    rows = []
    for position, stage in enumerate(STAGES):
        inner = [f"{stage}/{name}" for name in ("load", "a", "b", "c")]
        for window in (stage, *inner):
            joules = metrics.own_energy_j if window == "distill" else 9e3
            rows.append(
                stage_row(
                    window,
                    start_s=5000 + 60.0 * position,
                    duration_s=60.0,
                    key=metrics.student_key if stage == "distill" else f"{stage}-1",
                    energy_j={"gpu": joules, "cpu": 900.0, "dram": None},
                )
            )
    _write_lines(path, [asdict(row) for row in rows])


def _write_losses(path: Path, chance: random.Random) -> None:
    rows = []
    for step in range(1, STEPS + 1):
        row = {"schema": SCHEMA, "step": step, "tokens": step * 5000, "seconds": step * 0.8}
        row |= {"attempt": 1, "split": "train", "learning_rate": 1e-4 * (1 - step / STEPS)}
        row |= {"loss": 2 + chance.random(), "ce_nats": 2 + chance.random()}
        rows.append(row)
        if step % 50 == 0:
            held = {"schema": SCHEMA, "step": step, "tokens": step * 5000, "split": "heldout"}
            held |= {"attempt": 1, "ce_nats": 2.0, "bits_per_byte": 1.5 - step / 1000}
            rows.append(held | {"energy_j": 800.0 * step})
    _write_lines(path, rows)


def _scores(chance: random.Random) -> list[dict[str, Any]]:
    return [
        asdict(
            Score(
                subject=subject, harness="lm_eval", harness_version="0.4.13", task=task,
                metric="acc", value=chance.uniform(0.3, 0.8), stderr=0.01, higher_is_better=True,
                num_fewshot=0, num_samples=1000, energy_j=900.0,
            )
        )
        for subject in ("student", "teacher")
        for task in TASKS
    ]  # fmt: skip


def _costs(chance: random.Random) -> list[dict[str, Any]]:
    """As kdwatts.serving.eager_loop tells them."""
    costs = []
    for subject in ("student", "teacher"):
        for batch_size in (1, 8, 32):
            phases = {
                phase: {
                    "j_per_token": chance.uniform(0.01, 0.1),
                    "interval_95_j": 0.001,
                    "net_j_per_token": None,
                    "quality": "measured",
                    "tokens": 40_960,
                    "duration_s": 12.5,
                    "repeats": 3,
                    "tokens_per_s": 3276.8,
                    "latency_p50_s": 0.02,
                    "latency_p95_s": 0.03,
                }
                for phase in ("prefill", "decode")
            }
            costs.append(
                {"schema": SCHEMA, "subject": subject, "batch_size": batch_size}
                | {"prompt_tokens": 512, "new_tokens": 128, **phases}
                | {"total_j_per_token": 0.05, "total_interval_95_j": 0.001}
                | {"net_total_j_per_token": None, "quality": "measured"}
            )
    return costs
