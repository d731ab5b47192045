"""Blocks paired by CKA in whole runs of the tiny pair, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.data.packing import load_batch
from kdwatts.data.shards import TokenShards
from kdwatts.models.layers import captured_blocks
from kdwatts.models.load import load_model
from kdwatts.records.files import read_jsonl
from kdwatts.stages.pairing import _check_finite
from kdwatts.stages.teacher import training_schedule
from tests import whole_runs

SMOKE = ("training=smoke", "gpu=cpu", "until=distill", "paradigm=feature")
CKA = ("paradigm.feature.layers=cka", "paradigm.feature.projector=mlp")


def run(run_dir: Path, store: Path, *overrides: str) -> dict[str, Any]:
    """One run in this process; its manifest."""
    whole_runs.run(run_dir, f"store_dir={store}", *SMOKE, *overrides)
    return json.loads((run_dir / "manifest.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two runs of one configuration and of one by depth, and their store."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "built", folder / "store", *CKA)
    run(folder / "reused", folder / "store", *CKA)
    run(folder / "uniform", folder / "store")
    return folder


def test_blocks_of_a_model_that_says_nan_are_not_paired():
    _check_finite("teacher", [torch.ones(4, 4)])
    with pytest.raises(RuntimeError, match=r"states after block 1 of the teacher are not finite"):
        _check_finite("teacher", [torch.ones(4, 4), torch.full((4, 4), torch.nan)])


def pairs_of(run_dir: Path) -> list[dict[str, Any]]:
    return json.loads((run_dir / "manifest.json").read_text())["feature_pairs"]


def plain_table(config: Config, shards: TokenShards) -> list[list[float]]:
    """Plain linear CKA of every pair of blocks over whole rows, first positions left out."""
    assert config.model.teacher
    rows = training_schedule(config, shards).rows[:32]
    batch = load_batch(shards, rows, config.training.sequence_length)
    states = []
    for source in (config.model.student, config.model.teacher):
        model = load_model(source, dtype=torch.float32, seed=config.training.seed)
        blocks = range(source.architecture.num_layers)
        with torch.no_grad(), captured_blocks(model, blocks) as outputs:
            model(batch.input_BT)
        kept = [outputs[block][:, 1:].flatten(0, 1).double() for block in blocks]
        states.append([state - state.mean(0) for state in kept])
    return [
        [((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item() for y in states[1]]
        for x in states[0]
    ]


def test_the_pairs_and_their_cka_are_in_the_manifest_and_are_those_of_the_plain_formula(
    runs: Path,
):
    config = to_config(resolve_gpu(compose([f"store_dir={runs / 'store'}", *SMOKE, *CKA]), []))
    (shards_dir,) = (runs / "store" / "shards").iterdir()
    table = plain_table(config, TokenShards(shards_dir))
    best = max(
        ([(0, s), (1, t)] for s in range(4) for t in range(s + 1, 4)),
        key=lambda pairs: sum(table[s][t] for s, t in pairs),
    )
    pairs = pairs_of(runs / "built")
    assert [(pair["student_block"], pair["teacher_block"]) for pair in pairs] == best
    # The same positions: 63 of rows of 64. At 2,016 of them the plain estimate is a little higher.
    for pair in pairs:
        plain = table[pair["student_block"]][pair["teacher_block"]]
        assert 0 < pair["cka"] < plain < pair["cka"] + 0.05


def test_a_reused_student_tells_its_pairs_too(runs: Path):
    stages = list(read_jsonl(runs / "reused" / "stages.jsonl"))
    assert {row["outcome"] for row in stages if row["window"] == "run/distill"} == {"reused"}
    assert pairs_of(runs / "reused") == pairs_of(runs / "built")


def test_pairs_by_depth_are_told_without_a_cka_and_measured_by_no_window(runs: Path):
    assert pairs_of(runs / "uniform") == [
        {"student_block": 0, "teacher_block": 1, "cka": None},
        {"student_block": 1, "teacher_block": 3, "cka": None},
    ]
    windows = {
        name: {row["window"] for row in read_jsonl(runs / name / "stages.jsonl")}
        for name in ("built", "uniform")
    }
    assert "run/distill/load/pair" in windows["built"]
    assert "run/distill/load/pair" not in windows["uniform"]


def test_the_manifest_keeps_what_it_said_before(runs: Path):
    manifest = json.loads((runs / "built" / "manifest.json").read_text())
    assert manifest["attempt"] == 1 and manifest["versions"]["torch"]


def test_projectors_are_trained_and_are_no_part_of_the_exported_student(runs: Path):
    weights = load_file(runs / "built" / "student" / "model.safetensors")
    assert not [name for name in weights if "projector" in name]
    assert all(name.startswith("model.") for name in weights)
    # 128 is the teacher's width; no matrix of the student has to do with it.
    others = {name: tensor.shape for name, tensor in weights.items() if ".mlp." not in name}
    assert not [name for name, shape in others.items() if 128 in shape]
