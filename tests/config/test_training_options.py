"""Whole runs of the tiny pair with the options of training: adapters, held-out rows, budgets."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdwatts.cli.preflight import compose
from kdwatts.config.pair import ModelSource
from kdwatts.models.load import load_model
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime.interrupt import Preempted
from kdwatts.training import loop
from tests import whole_runs

TEN_STEPS = (
    "training=smoke",
    "gpu=cpu",
    "until=distill",
    "training.target_tokens=10240",
    "training.log_every=1",
)
LORA = (
    "model=tiny_half",
    "training=lora",
    "training.sequence_length=64",
    "training.micro_batch=16",
    "training.accumulation=1",
    "training.precision=fp32",
    "training.lora.rank=4",
    "training.lora.dropout=0.2",
    "training.target_tokens=10240",
    "paradigm=feature",
)
SHORT = (
    "training.sequence_length=32",
    "training.micro_batch=8",
    "training.target_tokens=2560",
    "training.heldout_tokens=512",
)
HELD_OUT = ("training.heldout_every=4", "training.heldout_tokens=2048")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two stores that have the corpus, so that one student can be built twice."""
    stores = [tmp_path_factory.mktemp(name) for name in ("store", "other")]
    run(tmp_path_factory.mktemp("first"), stores[0], "until=shards")
    shutil.copytree(stores[0], stores[1], dirs_exist_ok=True)
    return stores


@pytest.fixture
def store(stores: list[Path]) -> Path:
    return stores[0]


def run(run_dir: Path, store: Path, *overrides: str) -> dict[str, Any]:
    """One run in this process; its metrics."""
    whole_runs.run(run_dir, f"store_dir={store}", *TEN_STEPS, *overrides)
    path = run_dir / "metrics.json"
    return read_json(path) if path.is_file() else {}


def rows_of(run_dir: Path, split: str) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(run_dir / "train.jsonl") if row["split"] == split]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "student" / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process signalled in the midst of optimizer step `step`, counted from 1."""
    decide = loop.learning_rate_at

    def learning_rate_at(place: float, **settings: Any) -> float:
        if place >= step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return decide(place, **settings)

    monkeypatch.setattr(loop, "learning_rate_at", learning_rate_at)


@pytest.mark.parametrize(
    "options",
    [
        LORA,
        (
            "paradigm=combined",
            "training.respect_documents=true",
            "training.gradient_checkpointing=true",
        ),
        pytest.param(
            (*LORA, "paradigm=sft", "training.precision=bf16", *SHORT, *HELD_OUT[:1]),
            marks=pytest.mark.slow,
        ),
        pytest.param(("paradigm=response", *HELD_OUT), marks=pytest.mark.slow),
    ],
    ids=["lora", "documents, recomputed", "lora in bf16 with held-out rows", "held-out rows"],
)
def test_ten_steps_equal_six_a_stop_and_four_bit_for_bit(
    options: tuple[str, ...], stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, other = stores
    run(tmp_path / "whole", other, *options)
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        stop_after(6, patched)
        with pytest.raises(Preempted, match="saved after step 6 of 1"):
            run(stopped, store, *options)
    if "lora" in str(options):
        (state,) = store.glob("distill/*/checkpoints/step-*/state.safetensors")
        kept = {name.split(".")[0] for name in load_file(state)}
        assert kept == {"rng", "parameter", "optimizer"}
        names = [name for name in load_file(state) if name.startswith("parameter.")]
        assert all(".lora_" in name or ".projectors." in name for name in names)
    metrics = run(stopped, store, *options)
    assert equal(stopped, tmp_path / "whole")
    assert metrics["num_attempts"] == 2
    whole, resumed = (rows_of(folder, "train") for folder in (tmp_path / "whole", stopped))
    assert [row["loss"] for row in resumed] == [row["loss"] for row in whole]


def test_a_student_trained_by_adapters_is_an_ordinary_model_unlike_its_start(
    store: Path, tmp_path: Path
):
    metrics = run(tmp_path, store, *LORA, "paradigm=sft")
    teacher: Any = load_model(
        ModelSource("tiny:teacher", None, _shape(tmp_path)), dtype=torch.float32
    )
    trained, start = weights(tmp_path), teacher.state_dict()
    assert not any("lora" in name or "base_layer" in name for name in trained)
    first = "model.layers.0.mlp.up_proj.weight"
    moved = trained[first] - start["model.layers.1.mlp.up_proj.weight"]
    assert moved.abs().max() > 0
    assert torch.linalg.matrix_rank(moved, rtol=1e-3) == 4
    norms = "model.layers.0.input_layernorm.weight"
    assert torch.equal(trained[norms], start["model.layers.1.input_layernorm.weight"])
    # Blocks of the teacher are in it, so its training is inherited even without its signals.
    inherited = metrics["inherited_energy_by_artifact_j"]
    assert any(key.startswith("model:") and joules > 1000 for key, joules in inherited.items())


def _shape(run_dir: Path) -> Any:
    from kdwatts.config.checks import to_config

    teacher = to_config(compose(["model=tiny_half"])).model.teacher
    assert teacher
    return teacher.architecture


def test_holding_rows_out_changes_nothing_of_what_is_learned(store: Path, tmp_path: Path):
    run(tmp_path / "off", store, "paradigm=response", "training.seed=1")
    metrics = run(tmp_path / "on", store, "paradigm=response", *HELD_OUT, "training.seed=1")
    assert equal(tmp_path / "on", tmp_path / "off")
    rows = rows_of(tmp_path / "on", "heldout")
    assert [row["step"] for row in rows] == [4, 8, 10]
    for row in rows:
        assert row["loss"] == pytest.approx(0.1 * row["ce_nats"] + 0.9 * row["response_nats"], 1e-4)
    assert rows[-1]["ce_nats"] < rows[0]["ce_nats"]
    energies = [row["energy_j"] for row in rows]
    assert 0 < energies[0] < energies[1] < energies[2] <= metrics["own_energy_j"]
    assert [row["tokens"] for row in rows] == [4096, 8192, 10240]
    assert metrics["heldout_ce_nats"] == rows[-1]["ce_nats"]
    assert metrics["heldout_bits_per_byte"] == rows[-1]["bits_per_byte"]
    assert 1 < rows[-1]["bits_per_byte"] < 8
    windows = [
        row for row in read_jsonl(tmp_path / "on" / "stages.jsonl") if "heldout" in row["window"]
    ]
    assert [row["window"] for row in windows] == ["run/distill/train/heldout"] * 3
    assert metrics["heldout_energy_j"] == pytest.approx(
        sum(row["energy_j"]["cpu"] for row in windows)
    )
    assert metrics["train_tokens"] == 10240


def test_a_joule_budget_ends_training_saves_the_student_and_says_so(store: Path, tmp_path: Path):
    options = ("paradigm=sft", "training.target_tokens=2_000_000", "training.log_every=20")
    metrics = run(tmp_path, store, *options, "training.budget_kj=0.03")
    assert metrics["stopped_by"] == "budget_kj"
    for name in ("status.json", "manifest.json"):
        assert json.loads((tmp_path / name).read_text())["stopped_by"] == "budget_kj"
    # At its end it saves and is weighed: past the budget by what that and one tick draw.
    assert 30 <= metrics["own_energy_j"] < 40
    assert metrics["train_tokens"] < 1_500_000
    rows = rows_of(tmp_path, "train")
    assert rows[-1]["tokens"] == metrics["train_tokens"]
    # The learning rate has come down, as far as one tick tells, although few steps were made.
    rates = [row["learning_rate"] for row in rows]
    assert rates[-1] == min(rates[1:]) < 0.3 * max(rates)
    assert weights(tmp_path)


def test_a_token_budget_says_that_it_ended_training(store: Path, tmp_path: Path):
    metrics = run(tmp_path, store, "paradigm=sft", "training.budget_kj=1000")
    assert (metrics["stopped_by"], metrics["train_tokens"]) == ("target_tokens", 10240)
    assert read_json(tmp_path / "status.json")["stopped_by"] == "target_tokens"


def test_a_joule_budget_counts_what_a_stopped_attempt_drew(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ("paradigm=sft", "training.target_tokens=2_000_000", "training.budget_kj=0.012")
    with monkeypatch.context() as patched:
        stop_after(20, patched)
        with pytest.raises(Preempted):
            run(tmp_path, store, *options, "training.seed=3")
    (first,) = [r for r in read_jsonl(tmp_path / "stages.jsonl") if r["window"] == "run/distill"]
    metrics = run(tmp_path, store, *options, "training.seed=3")
    assert metrics["stopped_by"] == "budget_kj"
    last = [r for r in read_jsonl(tmp_path / "stages.jsonl") if r["window"] == "run/distill"][-1]
    drawn = [row["energy_j"]["cpu"] for row in (first, last)]
    assert metrics["own_energy_j"] == pytest.approx(sum(drawn))
    assert drawn[0] > 0 and 12 <= sum(drawn) < 24


def test_a_joule_budget_without_a_meter_is_refused_at_the_start(store: Path, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"training.budget_kj=1.0 needs the energy of every"):
        run(
            tmp_path,
            store,
            "paradigm=sft",
            "training.budget_kj=1",
            "telemetry.cpu_estimate=off",
            f"telemetry.rapl_root={tmp_path}",
        )
