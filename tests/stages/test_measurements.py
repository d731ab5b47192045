"""Serving is measured again by each run until the store has enough, and no run waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.artifacts.store import Store
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.metrics.student_t import mean_and_half_width
from kdwatts.planning.describe import describe
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.stages.graph import PlannedStage, plan

ASKED = (
    *("training=smoke", "gpu=cpu", "paradigm=sft", "eval=tiny", "eval.tasks=[]"),
    "training.target_tokens=1024",
    *("eval.inference.batch_sizes=[2,4]", "telemetry.idle_s=0"),
)


def tree_of(store: Path, *overrides: str) -> Any:
    return resolve_gpu(compose([f"store_dir={store}", *ASKED, *overrides]), [])


def stages_of(store: Path, *overrides: str) -> dict[str, PlannedStage]:
    config = to_config(tree_of(store, *overrides))
    return {planned.name: planned for planned in plan(config, [])}


@pytest.fixture
def run(tmp_path: Path, short_windows: Any) -> Callable[..., Path]:
    """Runs in a store of their own; the folder of each."""

    def run(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        with short_windows(0.02):
            run_in(folder, tree_of(tmp_path / "store", *overrides))
        return folder

    return run


def served(folder: Path) -> dict[str, list[int]]:
    """Subject to the numbers of the measurements in inference.json, a row for each point."""
    path = folder / "inference.json"
    rows = read_json(path) if path.is_file() else []
    return {
        subject: [row["measurement"] for row in rows if row["subject"] == subject]
        for subject in ("student", "teacher")
    }


def windows(folder: Path) -> dict[str, dict[str, Any]]:
    rows = read_jsonl(folder / "stages.jsonl")
    return {row["window"].removeprefix("run/"): row for row in rows if row["parent"] == "run"}


def test_three_runs_measure_once_each_and_the_fourth_makes_none(
    run: Callable[..., Path], tmp_path: Path
):
    folders = [run(str(seed), f"training.seed={seed}") for seed in range(4)]
    assert [served(folder)["student"] for folder in folders] == [
        [1, 1],
        [1, 1, 2, 2],
        [1, 1, 2, 2, 3, 3],
        [1, 1, 2, 2, 3, 3],
    ]
    assert [served(folder)["teacher"] for folder in folders] == [
        served(folder)["student"] for folder in folders
    ]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    for subject in ("student", "teacher"):
        planned = stages_of(tmp_path / "store")[f"inference_{subject}"]
        assert {one[f"{subject}_serving_key"] for one in metrics} == {planned.key}
        assert [one[f"{subject}_serving_measurements"] for one in metrics] == [1, 2, 3, 3]
        made = [windows(folder)[planned.name] for folder in folders]
        assert [row["outcome"] for row in made] == ["done", "done", "done", "reused"]
        keys = [one.key for one in planned.numbered()]
        assert [row["key"] for row in made] == [*keys, keys[0]]
        last = [
            row["total_j_per_token"]
            for row in read_json(folders[3] / "inference.json")
            if row["subject"] == subject and row["batch_size"] == 4
        ]
        mean, half_width = mean_and_half_width(last)
        for one in metrics[2:]:
            assert one[f"{subject}_total_j_per_token"] == pytest.approx(mean)
            assert one[f"{subject}_total_interval_95_j"] == pytest.approx(half_width)
            least, most = (one[f"{subject}_total_j_per_token_{end}"] for end in ("least", "most"))
            assert least <= mean <= most and least < most
    # A run's own measuring is in its figure; what spared it a fourth is what it reused.
    for one, folder in zip(metrics[:3], folders[:3], strict=True):
        drawn = [
            windows(folder)[f"inference_{s}"]["energy_j"]["cpu"] for s in ("student", "teacher")
        ]
        assert one["inference_energy_j"] == pytest.approx(sum(drawn))
    assert metrics[3]["inference_energy_j"] == pytest.approx(metrics[0]["inference_energy_j"])
    assert metrics[3]["saved_energy_j"] >= metrics[3]["inference_energy_j"]
    assert [
        metrics[3][f"serving_{name}"] for name in ("batch_size", "prompt_tokens", "new_tokens")
    ] == [4, 64, 32]
    # The plan says what is left of a stage that is measured several times.
    config = to_config(tree_of(tmp_path / "store", "eval.inference.measurements=5"))
    shown = describe(config, plan(config, []), Store(tmp_path / "store"), [])
    assert "measurement 4 of 5 would be built" in shown


def test_a_run_takes_the_next_number_beside_one_that_is_being_made_and_none_where_all_are(
    run: Callable[..., Path], tmp_path: Path
):
    asked = ("eval.inference.measurements=2", "model.teacher=null")
    planned = stages_of(tmp_path / "store", *asked)["inference_student"]
    store, keys = Store(tmp_path / "store"), [one.key for one in planned.numbered()]
    with ExitStack() as held:
        for key in keys:
            held.enter_context(store.claim("inference", key))
        alone = run("alone", *asked)
    metrics = json.loads((alone / "metrics.json").read_text())
    assert not (alone / "inference.json").exists()
    assert "inference_student" not in windows(alone)
    assert metrics["student_serving_key"] == planned.key
    assert metrics["student_serving_measurements"] == 0
    figures = ("student_total_j_per_token", "student_decode_j_per_token", "inference_energy_j")
    assert [metrics[name] for name in figures] == [None, None, None]
    assert metrics["serving_batch_size"] == 4

    with store.claim("inference", keys[0]):
        beside = run("beside", *asked)
    assert served(beside)["student"] == [2, 2]
    assert windows(beside)["inference_student"]["key"] == keys[1]
    assert json.loads((beside / "metrics.json").read_text())["student_serving_measurements"] == 1
    record = read_json(store.artifact_dir("inference", keys[1]) / "artifact.json")
    assert record["settings"]["measurement"] == 2
    # Which weights were served is in the record, though not in the key.
    assert record["reads"][-1] == metrics["student_key"] and record["parents"] == []
