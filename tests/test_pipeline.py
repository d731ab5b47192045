"""Whole runs of the tiny pair: what is built, reused and counted, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from omegaconf import DictConfig

from kdwatts.artifacts.store import Store
from kdwatts.cli.attempt import run_in
from kdwatts.config.checks import to_config
from kdwatts.pipeline import Run, execute
from kdwatts.records.files import read_jsonl
from kdwatts.runtime import interrupt
from kdwatts.stages.graph import plan
from tests import whole_runs

SMOKE = ("training=smoke", "gpu=cpu")


def tree_of(store: Path, *overrides: str) -> DictConfig:
    return whole_runs.tree_of(f"store_dir={store}", *SMOKE, *overrides)


def run(run_dir: Path, store: Path, *overrides: str) -> dict:
    """One run in this process; its metrics."""
    run_dir.mkdir(parents=True, exist_ok=True)
    run_in(run_dir, tree_of(store, *overrides))
    return json.loads((run_dir / "metrics.json").read_text())


def outcomes(run_dir: Path) -> dict[str, str]:
    """Window of each stage to its last outcome."""
    rows = read_jsonl(run_dir / "stages.jsonl")
    return {row["window"]: row["outcome"] for row in rows if row["parent"] == "run"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, store: Path, short_windows: Any) -> Path:
    """The folder of a run through every stage, evaluation and serving cut short."""
    run_dir = tmp_path_factory.mktemp("full")
    tree = tree_of(store, "paradigm=response")
    for task in tree.eval.tasks:
        task.limit = 12
    with short_windows(0.5):
        run_in(run_dir, tree)
    return run_dir


def test_a_finished_run_leaves_every_record_and_says_done(full: Path):
    names = {path.name for path in full.iterdir()}
    assert names >= {
        "config.yaml",
        "manifest.json",
        "status.json",
        "telemetry.jsonl",
        "stages.jsonl",
        "train.jsonl",
        "eval.json",
        "metrics.json",
        "student",
    }
    status = json.loads((full / "status.json").read_text())
    assert (status["state"], status["attempt"], status["error"]) == ("done", 1, None)


def test_every_stage_is_a_window_below_run_and_its_parts_lie_below_it(full: Path):
    rows = list(read_jsonl(full / "stages.jsonl"))
    stages = [row["window"] for row in rows if row["parent"] == "run"]
    assert stages == [
        "run/shards",
        "run/teacher",
        "run/distill",
        "run/evaluate_student",
        "run/evaluate_teacher",
        "run/inference_student",
        "run/inference_teacher",
    ]
    below = {row["window"] for row in rows if row["parent"] == "run/distill"}
    assert below == {"run/distill/load", "run/distill/train"}
    assert rows[-1]["window"] == "run"


def test_stage_energies_add_up_to_the_whole_within_its_uncertainty(full: Path):
    rows = list(read_jsonl(full / "stages.jsonl"))
    whole = rows[-1]
    parts = sum(row["energy_j"]["cpu"] for row in rows if row["parent"] == "run")
    assert parts <= whole["energy_j"]["cpu"] * 1.001
    assert whole["energy_j"]["cpu"] - parts < whole["uncertainty_j"]["cpu"]


def test_an_estimate_is_called_one_and_what_was_not_measured_is_null(full: Path):
    metrics = json.loads((full / "metrics.json").read_text())
    assert metrics["own_energy_quality"] == "estimated"
    assert metrics["gpu_energy_j"] is None
    assert metrics["gpu"] == "cpu"


def test_metrics_say_what_the_grid_factor_counts_and_where_it_was_read(full: Path):
    metrics = json.loads((full / "metrics.json").read_text())
    assert metrics["site"] == "world" and metrics["grid_source"].startswith("Ember, Global")
    facts = [metrics[f"grid_{fact}"] for fact in ("boundary", "basis", "kind", "gases", "year")]
    assert facts == ["lifecycle", "generation", "average", "co2e", 2024]
    assert metrics["grid_release"] == "Global Electricity Review 2025"
    assert metrics["grid_licence"] == "CC BY 4.0"


def test_both_subjects_are_scored_alike_with_standard_errors(full: Path):
    scores = json.loads((full / "eval.json").read_text())
    primary = {
        (s["subject"], s["task"]): s for s in scores if s["metric"] in ("acc", "bits_per_byte")
    }
    assert set(primary) == {
        ("student", "tiny_held_out"),
        ("teacher", "tiny_held_out"),
        ("student", "tiny_word_order"),
        ("teacher", "tiny_word_order"),
    }
    assert all(score["stderr"] > 0 and score["energy_j"] > 0 for score in primary.values())
    assert not primary["student", "tiny_held_out"]["higher_is_better"]
    student, teacher = (
        primary[subject, "tiny_held_out"]["value"] for subject in ("student", "teacher")
    )
    assert teacher < student


def test_accuracy_kept_is_told_with_its_chance_level_and_what_is_at_chance(full: Path):
    scores = json.loads((full / "eval.json").read_text())
    assert {(s["task"], s["metric"]): s["chance"] for s in scores if s["chance"] is not None} == {
        ("tiny_word_order", "acc"): 0.25
    }
    metrics = json.loads((full / "metrics.json").read_text())
    found = {s["subject"]: s for s in scores if s["chance"] is not None}
    for subject in ("student", "teacher"):
        score = found[subject]
        is_at_chance = score["value"] - 0.25 < 2 * score["stderr"]
        assert metrics[f"{subject}_at_chance"] == ["tiny_word_order"] * is_at_chance
    if metrics["teacher_at_chance"]:
        assert metrics["accuracy_kept"] is None
    else:
        above = [found[subject]["value"] - 0.25 for subject in ("student", "teacher")]
        assert metrics["accuracy_kept"] == pytest.approx(above[0] / above[1])
        assert metrics["accuracy_kept_benchmarks"] == ["tiny_word_order"]


def test_serving_costs_are_told_apart_for_prefill_and_decode(full: Path):
    metrics = json.loads((full / "metrics.json").read_text())
    for subject in ("student", "teacher"):
        prefill, decode, total = (
            metrics[f"{subject}_{phase}_j_per_token"] for phase in ("prefill", "decode", "total")
        )
        assert total == pytest.approx((64 * prefill + 32 * decode) / 96)
    assert metrics["teacher_decode_j_per_token"] > metrics["student_decode_j_per_token"]


def test_the_energy_of_training_the_teacher_is_inherited(full: Path):
    metrics = json.loads((full / "metrics.json").read_text())
    ancestors = metrics["inherited_energy_by_artifact_j"]
    (trained,) = [joules for key, joules in ancestors.items() if key.startswith("model:")]
    assert len(ancestors) == 3
    assert metrics["inherited_energy_j"] == pytest.approx(sum(ancestors.values()))
    assert trained > 1000


def test_a_student_that_becomes_a_teacher_carries_its_own_teachers_joules_too(full: Path):
    metrics = json.loads((full / "metrics.json").read_text())
    carried = json.loads((full / "student" / "energy.json").read_text())
    assert carried["energy_j"] == pytest.approx(
        metrics["own_energy_j"] + metrics["inherited_energy_j"]
    )


def test_the_student_is_an_ordinary_model_folder(full: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(full / "student")
    tokenizer = AutoTokenizer.from_pretrained(full / "student")
    inputs = tokenizer("To be, or not", return_tensors="pt")
    assert model(**inputs).logits.shape[-1] == 1024


def test_the_same_command_again_builds_nothing_and_keeps_the_joules(
    full: Path, store: Path, tmp_path: Path
):
    # One measurement of serving is enough here; tests/stages/test_measurements.py has several.
    tree = tree_of(store, "paradigm=response", "eval.inference.measurements=1")
    for task in tree.eval.tasks:
        task.limit = 12
    run_in(tmp_path, tree)
    first, again = (json.loads((d / "metrics.json").read_text()) for d in (full, tmp_path))
    assert set(outcomes(tmp_path).values()) == {"reused"}
    assert again["own_energy_j"] == first["own_energy_j"]
    assert again["inherited_energy_j"] == first["inherited_energy_j"]
    assert again["saved_energy_j"] > again["own_energy_j"]
    assert again["spent_energy_j"] < first["spent_energy_j"] / 5


def test_what_a_stage_drew_that_failed_is_counted_with_what_the_next_attempt_draws(
    full: Path, store: Path, tmp_path: Path, short_windows: Any, monkeypatch: pytest.MonkeyPatch
):
    tree = tree_of(store, "paradigm=response", "eval.inference.batch_sizes=[2]")
    for task in tree.eval.tasks:
        task.limit = 4

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    with short_windows(0.05):
        for stage in ("evaluate", "inference"):
            with monkeypatch.context() as patch:
                patch.setattr(f"kdwatts.stages.{stage}.write_json", fail)
                with pytest.raises(OSError, match="the disk is full"):
                    run_in(tmp_path, tree)
        run_in(tmp_path, tree)
    rows = [row for row in read_jsonl(tmp_path / "stages.jsonl") if row["parent"] == "run"]
    for name in ("evaluate_student", "inference_student"):
        drew = [
            row for row in rows if row["window"] == f"run/{name}" and row["outcome"] != "reused"
        ]
        (key,) = {row["key"] for row in drew}
        record = json.loads((store / name.split("_")[0] / key / "artifact.json").read_text())
        assert [row["outcome"] for row in drew] == ["failed", "done"]
        assert [one["energy_j"] for one in record["attempts"]] == [row["energy_j"] for row in drew]


def test_another_temperature_rebuilds_the_student_and_keeps_the_teacher_cache(
    full: Path, store: Path, tmp_path: Path
):
    run(tmp_path, store, "paradigm=response", "until=distill", "paradigm.response.temperature=2")
    assert outcomes(tmp_path) == {
        "run/shards": "reused",
        "run/teacher": "reused",
        "run/distill": "done",
    }


def test_another_seed_shares_the_teacher_cache(full: Path, store: Path, tmp_path: Path):
    run(tmp_path, store, "paradigm=response", "until=distill", "training.seed=1")
    assert outcomes(tmp_path)["run/teacher"] == "reused"
    assert outcomes(tmp_path)["run/distill"] == "done"


def test_accumulation_does_not_change_what_is_learned(store: Path, tmp_path: Path):
    weights = []
    for name, micro_batch, accumulation in (("whole", 16, 1), ("parts", 8, 2)):
        run(
            tmp_path / name,
            store,
            "paradigm=combined",
            "until=distill",
            f"training.micro_batch={micro_batch}",
            f"training.accumulation={accumulation}",
        )
        weights.append(_weights(tmp_path / name))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-4, rtol=0)


@pytest.mark.slow
# The compiler of torch 2.13 imports parts of torch that it has itself deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_pair_really_is_compiled_and_the_student_learns_the_same(
    store: Path, tmp_path: Path
):
    losses, num_graphs = [], []
    for compiled in ("false", "true"):
        torch._dynamo.utils.counters.clear()
        run_dir = tmp_path / compiled
        taught = ("paradigm=response", "paradigm.teacher=online")
        run(run_dir, store, *taught, "until=distill", f"training.compile={compiled}")
        losses.append([row["loss"] for row in read_jsonl(run_dir / "train.jsonl")])
        num_graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    # The student in training, and the teacher.
    assert num_graphs == [0, 2]
    windows = [row["window"] for row in read_jsonl(tmp_path / "true" / "stages.jsonl")]
    load, compiled, train = (f"run/distill/{name}" for name in ("load", "compile", "train"))
    assert windows.index(load) < windows.index(compiled) < windows.index(train)


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run_dir / "student" / "model.safetensors")


# More than are waited for by far: the signal must come before the last one, also a late one.
TWENTY_STEPS = (
    "until=distill",
    "paradigm=feature",
    "training.target_tokens=20480",
    "training.log_every=1",
    "training.checkpoint_every_s=1e-6",
)


def _start(run_dir: Path, store: Path, *overrides: str) -> subprocess.Popen[str]:
    folders = [f"hydra.run.dir={run_dir}", f"store_dir={store}"]
    return subprocess.Popen(
        [sys.executable, "-m", "kdwatts", *folders, *SMOKE, *TWENTY_STEPS, *overrides],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )


def _signal_after(step: int, number: int, process: subprocess.Popen[str], run_dir: Path) -> str:
    """Send the signal once the log shows the step; what the process wrote to stderr."""
    log, deadline_s = run_dir / "train.jsonl", time.monotonic() + 180
    while time.monotonic() < deadline_s and process.poll() is None:
        if log.is_file() and log.read_bytes().count(b"\n") >= step:
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.communicate(timeout=180)[1]


def test_twenty_steps_equal_some_a_kill_and_the_rest_bit_for_bit_and_no_joule_is_lost(
    store: Path, tmp_path: Path
):
    run(tmp_path / "whole", tmp_path / "other", *TWENTY_STEPS)
    killed = tmp_path / "killed"
    # What a kill leaves of a window is between its readings: six steps must span two of them.
    process = _start(killed, store, "telemetry.slow_interval_s=0.1")
    _signal_after(6, signal.SIGKILL, process, killed)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((killed / "status.json").read_text())["state"] == "running"
    assert not (killed / "metrics.json").exists()

    metrics = run(killed, store, *TWENTY_STEPS)
    resumed, whole = _weights(killed), _weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert metrics["num_attempts"] == 2
    assert metrics["train_tokens"] == 20480
    attempts = json.loads(((killed / "student").resolve().parent / "artifact.json").read_text())[
        "attempts"
    ]
    assert all(row["energy_j"]["cpu"] > 0 for row in attempts)
    assert metrics["own_energy_j"] == pytest.approx(sum(r["energy_j"]["cpu"] for r in attempts))


def test_a_terminated_run_ends_its_step_saves_and_says_preempted(store: Path, tmp_path: Path):
    overrides = ("training.seed=7", "training.checkpoint_every_s=900")
    run_dir = tmp_path / "run"
    process = _start(run_dir, store, *overrides)
    message = _signal_after(3, signal.SIGTERM, process, run_dir)
    assert process.returncode == 75
    assert "stopped by SIGTERM; saved after step" in message
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], status["stage"]) == ("preempted", "distill")
    assert outcomes(run_dir)["run/distill"] == "preempted"
    metrics = run(run_dir, store, *TWENTY_STEPS, *overrides)
    assert metrics["num_attempts"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="shown where CUDA cannot be touched")
def test_a_run_that_waits_for_another_s_teacher_has_not_touched_a_gpu(tmp_path: Path):
    """Whatever asks for a context of CUDA before the wait ends the run, as there is no CUDA."""
    config = to_config(tree_of(tmp_path / "store", "paradigm=response", "gpu=h100"))
    stages = plan(config, [])
    teacher = next(planned for planned in stages if planned.name == "teacher")
    begun: list[str] = []

    def notice(name: str) -> None:
        begun.append(name)
        if name == "teacher":
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR2)).start()

    waiting = Run(config, tmp_path, Store(tmp_path / "store"), 1, [], notice)
    with (
        interrupt.deferred(),
        waiting.store.claim("teacher", teacher.key),
        pytest.raises(interrupt.Preempted, match="what it waited for is built by another"),
    ):
        execute(waiting, stages)
    with interrupt.deferred():
        pass  # Forgets the signal, which would end the next wait in this process.
    assert begun == ["shards", "teacher"]
    (shards,) = [r for r in read_jsonl(tmp_path / "stages.jsonl") if r["window"] == "run/shards"]
    assert shards["outcome"] == "done"
