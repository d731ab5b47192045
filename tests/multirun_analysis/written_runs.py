"""Folders of runs, written with the record classes that real runs use."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdwatts.records.files import append_jsonl, read_json, write_json
from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import SCHEMA, Score, StageRow, TelemetryRow
from multirun_analysis.importer.known import PRIMARIES

SHARDS_KEY, TEACHER_KEY = "shards-1", "teacher-1"

METRICS = Metrics(
    run="0-response-tiny", paradigm="response", model="tiny", data="tiny", gpu="h100",
    gpu_name="NVIDIA H100 80GB HBM3", num_gpus=1, site="world", seed=0,
    own_energy_j=400e3, own_energy_quality="measured", own_energy_uncertainty_j=20e3,
    own_net_energy_j=310e3,
    inherited_energy_j=100e3, inherited_energy_quality="measured",
    inherited_energy_by_artifact_j={SHARDS_KEY: 10e3, TEACHER_KEY: 90e3},
    evaluation_energy_j=30e3, inference_energy_j=12e3, spent_energy_j=540e3, saved_energy_j=0.0,
    gpu_energy_j=380e3, cpu_energy_j=20e3, dram_energy_j=None, num_attempts=1,
    train_duration_s=900.0, train_tokens=2_000_000, train_tokens_per_s=2222.0,
    train_j_per_token=0.2, data_wait_share=0.01, student_params=1_000_000, teacher_params=8_000_000,
    student_prefill_j_per_token=0.0021, student_decode_j_per_token=0.052,
    student_total_j_per_token=0.019, teacher_prefill_j_per_token=0.011,
    teacher_decode_j_per_token=0.31, teacher_total_j_per_token=0.11,
    inference_energy_quality="measured", student_decode_tokens_per_s=4100.0,
    teacher_decode_tokens_per_s=900.0, student_bits_per_byte=1.02, teacher_bits_per_byte=0.91,
    om_perf=0.95, om_perf_stderr=0.008, om_perf_corrected=0.93, eff_overall=5.5,
    co2e_kg=0.0528, total_co2e_kg=0.066, cost_usd=0.02, grid_gco2e_per_kwh=445.0, pue=1.1,
    student_key="student-0", accuracy_kept=0.93, accuracy_kept_benchmarks=["mmlu"],
    teacher_at_chance=[], student_at_chance=[],
)  # fmt: skip

MANIFEST = {
    "schema": SCHEMA,
    "host": "node7",
    "cpu": "AMD EPYC 7763 64-Core Processor",
    "cpu_threads": 128,
    "command": ["/opt/kdwatts/__main__.py", "-m", "hydra.sweep.dir=/scratch/me/sweep"],
    "gpus": [{"index": 0, "uuid": "GPU-5f0c", "name": "NVIDIA H100 80GB HBM3", "driver": "575.57"}],
    "kdwatts": "0.1.0",
    "git_commit": "4169609aa1b2c3d4+changes",
    "versions": {"torch": "2.8.0", "lm-eval": None},
    "cpu_estimate": None,
    "attempt": 1,
}


def status(state: str = "done", *, stage: str = "inference", error: str | None = None) -> dict:
    return {
        "schema": SCHEMA,
        "state": state,
        "stage": stage,
        "attempt": 1,
        "error": error,
        "time_utc": "2025-11-14T01:40:00Z",
    }


def write_run(
    folder: Path,
    *,
    state: dict[str, Any] | None = None,
    metrics: Metrics | None = METRICS,
    overrides: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """A run folder as a finished run leaves it; `changes` replace fields of METRICS.

    A test that says om_perf alone means accuracy kept too: chance is then 0.
    """
    if "om_perf" in changes:
        changes = {"accuracy_kept": changes["om_perf"]} | changes
    hydra_dir = folder / ".hydra"
    hydra_dir.mkdir(parents=True)
    metrics = metrics and replace(metrics, run=folder.name, **changes)
    asked = metrics or METRICS
    groups = "".join(
        f"{key}:\n  name: {getattr(asked, key)}\n" for key in ("paradigm", "model", "data", "gpu")
    )
    (folder / "config.yaml").write_text(
        f"{groups}training:\n  micro_batch: 8\n  seed: {asked.seed}\n  precision: bf16\n"
    )
    lines = (f"paradigm={asked.paradigm}", f"training.seed={asked.seed}", *overrides)
    (hydra_dir / "overrides.yaml").write_text("".join(f"- {line}\n" for line in lines))
    write_json(folder / "manifest.json", MANIFEST)
    write_json(folder / "status.json", state or status())
    if metrics:
        write_json(folder / "metrics.json", metrics)
    return folder


def stage_row(
    stage: str, *, start_s: float = 0.0, duration_s: float = 10.0, **changes: Any
) -> StageRow:
    """A window of a node whose GPU is measured and whose memory is not."""
    row = StageRow(
        window=f"run/{stage}",
        parent="run",
        key=None,
        attempt=1,
        outcome="done",
        start_utc="2025-11-14T01:21:00Z",
        start_s=start_s,
        duration_s=duration_s,
        data_wait_s=0.1,
        energy_j={"gpu": 1000.0, "cpu": None, "dram": None},
        method={"gpu": "nvml_counter", "cpu": None, "dram": None},
        quality={"gpu": "measured", "cpu": "missing", "dram": "missing"},
        uncertainty_j={"gpu": 50.0, "cpu": None, "dram": None},
        coverage={"gpu": 0.998, "cpu": None, "dram": None},
        idle_power_w={"gpu": 65.0, "cpu": None, "dram": None},
    )
    return replace(row, **changes)


def append_all(path: Path, records: list[Any]) -> None:
    for record in records:
        append_jsonl(path, record)


def add_traces(folder: Path, *, metrics: Metrics, seed: int, reused_teacher: bool) -> None:
    """Adds stages, telemetry, losses and scores of a plausible shape."""
    chance = random.Random(seed)
    plan = [
        ("shards", SHARDS_KEY, 20, 150),
        ("teacher", TEACHER_KEY, 150, 600),
        ("distill", metrics.student_key, 600, 640),
        ("evaluate_student", "e1", 60, 350),
        ("evaluate_teacher", "e2", 90, 520),
        ("inference_student", "i1", 25, 410),
        ("inference_teacher", "i2", 40, 590),
    ]
    clock_s, stages, ticks = 5000.0, [], []
    if metrics.paradigm == "sft":
        plan.pop(1)
    for stage, key, duration_s, power_w in plan:
        reused = reused_teacher and stage in ("shards", "teacher")
        duration_s = 1 if reused else duration_s
        joules = {
            "shards": 10e3,
            "teacher": 90e3,
            "distill": metrics.own_energy_j or 0.0,
        }.get(stage, duration_s * power_w)
        joules = duration_s * 100.0 if reused else joules
        stages.append(
            stage_row(
                stage,
                start_s=clock_s,
                duration_s=duration_s,
                key=key,
                outcome="reused" if reused else "done",
                energy_j={"gpu": joules, "cpu": None, "dram": None},
                uncertainty_j={"gpu": joules / 20, "cpu": None, "dram": None},
            )
        )
        for second in range(int(duration_s)):
            watts = power_w * (0.3 if second < 4 else 1) + chance.gauss(0, 12)
            for index in range(metrics.num_gpus):
                ticks.append(
                    TelemetryRow(
                        time_utc="2025-11-14T01:21:00Z",
                        monotonic_s=clock_s + second,
                        attempt=1,
                        window=f"run/{stage}",
                        device_kind="gpu",
                        device_index=index,
                        method="nvml_counter",
                        power_w=watts - 20 * index,
                    )
                )
        clock_s += duration_s + 3
    append_all(folder / "stages.jsonl", stages)
    append_all(folder / "telemetry.jsonl", ticks)
    losses = []
    for step in range(0, 400, 5):
        ce = 2.1 + 5 * math.exp(-step / 60) + chance.gauss(0, 0.05)
        row = {"schema": SCHEMA, "step": step, "tokens": step * 5000, "seconds": step * 1.5}
        row |= {"learning_rate": 1e-4, "loss": ce + 0.2, "ce_nats": ce}
        if metrics.paradigm in ("response", "combined"):
            row["response_nats"] = 0.4 + 2 * math.exp(-step / 80) + chance.gauss(0, 0.03)
        if metrics.paradigm in ("feature", "combined"):
            row["feature"] = 0.3 + math.exp(-step / 90) + chance.gauss(0, 0.01)
        losses.append(row)
    append_all(folder / "train.jsonl", losses)
    score = Score(
        subject="student", harness="lm_eval", harness_version="0.4.13", task="arc_easy",
        metric="acc", value=0.61, stderr=0.01, higher_is_better=True, num_fewshot=0,
        num_samples=2376, energy_j=900.0,
    )  # fmt: skip
    (folder / "eval.json").write_text(json.dumps([asdict(score)]))


def write_sweep(directory: Path, *, seeds: int = 3) -> Path:
    """A sweep of five paradigms with shared teacher signals, and four runs that did not finish."""
    chance = random.Random(7)
    number = 0
    shapes = {
        "sft": (210e3, 0.905, 1.08),
        "response": (330e3, 0.958, 1.00),
        "feature": (455e3, 0.951, 1.02),
        "relational": (402e3, 0.931, 1.04),
        "combined": (560e3, 0.969, 0.985),
    }
    for paradigm, (joules, kept, bits) in shapes.items():
        for seed in range(seeds):
            inherited = {SHARDS_KEY: 10e3} | ({} if paradigm == "sft" else {TEACHER_KEY: 90e3})
            own_j = joules * chance.uniform(0.98, 1.02)
            metrics = replace(
                METRICS,
                paradigm=paradigm,
                seed=seed,
                own_energy_j=own_j,
                own_energy_uncertainty_j=own_j * chance.uniform(0.045, 0.055),
                inherited_energy_j=sum(inherited.values()),
                inherited_energy_by_artifact_j=dict(inherited),
                om_perf=(om_perf := kept + chance.gauss(0, 0.005)),
                accuracy_kept=om_perf,
                student_bits_per_byte=bits + chance.gauss(0, 0.004),
                student_decode_j_per_token=0.052 * chance.uniform(0.97, 1.03),
                train_j_per_token=own_j / 2e6,
                co2e_kg=own_j / 3.6e6 * 1.1 * 0.445,
                student_key=f"student-{paradigm}-{seed}",
            )
            folder = write_run(directory / f"{number}-{paradigm}-tiny", metrics=metrics)
            add_traces(
                folder, metrics=metrics, seed=number, reused_teacher=number not in (0, seeds)
            )
            number += 1
    failed = status(
        "failed", stage="distill", error="RuntimeError: CUDA error: device lost <b>GPU 0</b>"
    )
    write_run(directory / f"{number}-feature-tiny", state=failed, metrics=None)
    running = status("running", stage="teacher")
    write_run(directory / f"{number + 1}-response-tiny", state=running, metrics=None)
    write_run(directory / f"{number + 2}-response-tiny", state=status("preempted"), metrics=None)
    torn = write_run(directory / f"{number + 3}-sft-tiny")
    (torn / "metrics.json").write_text('{"schema": 1, "own_en')
    return directory


def write_seeds(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Runs of one setting with seeds from 0 on, each with fields of its own."""
    for seed, changes in enumerate(rows):
        write_run(folder / str(seed), seed=seed, student_key=f"s{seed}", **changes)


def write_scored(
    folder: Path,
    student: dict[str, float | None],
    teacher: dict[str, float | None],
    *,
    stderr: float | None = 0.01,
    tasks: dict[str, tuple[str, float | None]] | None = None,
    **changes: Any,
) -> Path:
    """A run of an older version, whose metrics say nothing of accuracy kept, with its scores.

    `tasks` are benchmarks with metric and chance level as the configuration states them; without,
    the metrics are those of the known benchmarks.
    """
    changes = {"om_perf": None, "om_perf_stderr": None, "om_perf_corrected": None} | changes
    write_run(folder, **changes)
    metrics = {
        key: value
        for key, value in read_json(folder / "metrics.json").items()
        if "accuracy_kept" not in key and "chance" not in key
    }
    write_json(folder / "metrics.json", metrics)
    counted = PRIMARIES | (tasks or {})
    scores = [
        Score(subject, "lm_eval", "0.4.13", task, counted[task][0], value, stderr, True, 5, 1000,
              900.0)
        for subject, values in (("student", student), ("teacher", teacher))
        for task, value in values.items()
    ]  # fmt: skip
    rows = [{k: v for k, v in asdict(score).items() if k != "chance"} for score in scores]
    (folder / "eval.json").write_text(json.dumps(rows))
    if tasks:
        asked = [
            {"name": task, "primary_metric": metric, "chance": chance}
            for task, (metric, chance) in tasks.items()
        ]
        with (folder / "config.yaml").open("a") as file:
            file.write(f"eval: {json.dumps({'tasks': asked})}\n")
    return folder


def write_at_chance(directory: Path, *, seeds: int = 2) -> Path:
    """A sweep whose teacher is at chance on MMLU, as its students are: 0.25 with an error of 0.01.

    OM_perf is then near 1 and says nothing.
    """
    shapes = {"sft": (200e3, 1.05, (0.247, 0.251)), "response": (300e3, 1.01, (0.252, 0.249))}
    for paradigm, (joules, bits, scores) in shapes.items():
        for seed in range(seeds):
            folder = directory / f"{paradigm}-{seed}"
            changes = {
                "paradigm": paradigm,
                "seed": seed,
                "student_key": folder.name,
                "own_energy_j": joules * (1 + seed / 100),
                "om_perf": scores[seed % 2] / 0.25,
                "om_perf_stderr": 0.05,
                "student_bits_per_byte": bits + seed * (0.001 if paradigm == "sft" else 0.0015),
                "accuracy_kept": None,
            }
            write_scored(folder, {"mmlu": scores[seed % 2]}, {"mmlu": 0.25}, **changes)
    return directory


def write_serving(
    folder: Path,
    *,
    keys: bool = True,
    place: tuple[int, int, int] = (8, 64, 32),
    **j_per_token: Any,
) -> None:
    """Adds measurements of serving to a run, each J/token by subject, numbered from 1.

    `keys`: as runs do that say what serves alike. All windows of a measurement are alike.
    """
    path = folder / "inference.json"
    costs = json.loads(path.read_text()) if path.exists() else []
    for subject, values in j_per_token.items():
        for number, j in enumerate(values, start=1):
            phase = {
                "j_per_token": j, "interval_95_j": 0.0, "quality": "measured", "repeats": 3,
                "duration_s": 6.0, "tokens": 1000, "tokens_per_s": 100.0,
            }  # fmt: skip
            cost = dict(zip(("batch_size", "prompt_tokens", "new_tokens"), place, strict=True))
            cost |= {"schema": SCHEMA, "subject": subject, "prefill": phase, "decode": phase}
            cost |= {"total_j_per_token": j, "total_interval_95_j": 0.0, "quality": "measured"}
            if keys:
                cost |= {"key": f"{subject}-serves", "measurement": number}
            costs.append(cost)
    write_json(path, costs)
    if keys:
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics |= {f"{subject}_serving_key": f"{subject}-serves" for subject in j_per_token}
        places = ("serving_batch_size", "serving_prompt_tokens", "serving_new_tokens")
        write_json(folder / "metrics.json", metrics | dict(zip(places, place, strict=True)))
