"""What cannot work is refused in one sentence, is told by status.json, and spoils nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdwatts.cli.refusal import EXPECTED, in_one_sentence
from kdwatts.models.load import load_tokenizer
from kdwatts.runtime.paths import TINY_DIR
from tests import whole_runs

FEW = "data.num_documents=12"
"""For runs that end before the text matters."""


def attempt(run_dir: Path, *overrides: str) -> str:
    """Run, expect a failure, and return its sentence after checking that status.json has it."""
    with pytest.raises(EXPECTED) as caught:
        whole_runs.run(run_dir, "training=smoke", "gpu=cpu", "until=distill", *overrides)
    sentence = in_one_sentence(caught.value)
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], status["error"]) == ("failed", sentence)
    assert "\n" not in sentence
    assert not (run_dir / "metrics.json").exists()
    return sentence


def finished(store: Path) -> list[Path]:
    """Folders of the store that look like finished artifacts."""
    return [p for p in store.glob("*/*") if p.is_dir() and "." not in p.name]


def test_a_missing_model_folder_is_named(tmp_path: Path):
    sentence = attempt(
        tmp_path / "run", f"store_dir={tmp_path}/store", "model.teacher.path=/nowhere/model"
    )
    assert (
        sentence
        == "model: the folder /nowhere/model does not exist; check the path, or give a hub id"
    )


def test_an_empty_corpus_is_refused_and_leaves_no_shards(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("")
    store = tmp_path / "store"
    sentence = attempt(
        tmp_path / "run", f"store_dir={store}", f"data.source.path={tmp_path}/empty.jsonl"
    )
    assert "no text to train on in 0 documents" in sentence
    assert finished(store) == []


def test_a_corpus_below_one_sequence_is_refused(tmp_path: Path):
    (tmp_path / "short.jsonl").write_text('{"text": "To be."}\n')
    sentence = attempt(
        tmp_path / "run", f"store_dir={tmp_path}/store", f"data.source.path={tmp_path}/short.jsonl"
    )
    assert "training.sequence_length=64 is longer than the corpus" in sentence


def test_vocabularies_that_do_not_match_are_refused_by_token(tmp_path: Path):
    tokenizer = load_tokenizer("tiny:tokenizer")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    directory = tmp_path / "tokenizer"
    tokenizer.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    sentence = attempt(
        tmp_path / "run", f"store_dir={tmp_path}/store", f"model.tokenizer={directory}"
    )
    assert sentence.startswith("the vocabularies do not match: token '")
    assert "choose a pair of one family, or compare texts with" in sentence


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "file").write_text("")
    sentence = attempt(tmp_path / "run", f"store_dir={tmp_path}/file/store")
    assert "cannot be written" in sentence and "set store_dir" in sentence
    assert not (tmp_path / "run" / "stages.jsonl").exists()


def test_a_corrupt_shard_is_refused_by_checksum(tmp_path: Path):
    store = tmp_path / "store"
    whole_runs.run(tmp_path, "until=shards", "gpu=cpu", FEW, f"store_dir={store}")
    (shard,) = store.glob("shards/*/tokens-00000.bin")
    with shard.open("r+b") as file:
        file.write(b"\xff")
    sentence = attempt(tmp_path / "run", FEW, f"store_dir={store}")
    assert f"{shard} has sha256" in sentence and "delete" in sentence


def test_an_artifact_of_a_newer_schema_is_refused(tmp_path: Path):
    store = tmp_path / "store"
    whole_runs.run(tmp_path, "until=shards", "gpu=cpu", FEW, f"store_dir={store}")
    (record,) = store.glob("shards/*/artifact.json")
    record.write_text(record.read_text().replace('"schema": 1', '"schema": 99'))
    assert "schema is 99" in attempt(tmp_path / "run", FEW, f"store_dir={store}")


@pytest.mark.parametrize(
    ("size", "stage"), [("3m", "shards"), ("8m", "teacher"), ("9m", "distill")]
)
def test_a_full_disk_is_told_and_nothing_half_written_is_taken_for_whole(
    size: str, stage: str, tmp_path: Path
):
    """On file systems that hold the stages before `stage`, and then no more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        sentence = attempt(tmp_path / "run", f"store_dir={disk}/store", "paradigm=response")
        assert {path.parent.name for path in finished(disk / "store")}.isdisjoint({stage})
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["stage"] == stage
    assert sentence.startswith("the disk is full")
    assert sentence.endswith("set store_dir to another disk, and rerun")


@pytest.fixture
def damaged_teacher(tmp_path: Path) -> Path:
    """The shipped teacher with one weight NaN, as a damaged file has it."""
    folder = tmp_path / "teacher"
    shutil.copytree(TINY_DIR / "teacher", folder, copy_function=shutil.copyfile)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][5, 7] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("support", ["top_k", "sampled"])
def test_a_teacher_that_says_nan_is_told_before_a_cache_of_it_is_kept(
    support: str, damaged_teacher: Path, tmp_path: Path
):
    sentence = attempt(
        tmp_path / "run",
        f"store_dir={tmp_path}/store",
        f"model.teacher.path={damaged_teacher}",
        FEW,
        *("paradigm=response", f"paradigm.response.support={support}"),
    )
    told = f"teacher: what the teacher {damaged_teacher} says is not finite (NaN or infinite); its"
    assert sentence.startswith(told) and sentence.endswith("check its files")
    assert {path.parent.name for path in finished(tmp_path / "store")} == {"shards"}


def test_a_corpus_too_short_to_serve_is_told_before_a_student_is_trained(tmp_path: Path):
    sentence = attempt(
        tmp_path / "run",
        f"store_dir={tmp_path}/store",
        *("until=inference", "paradigm=sft", "data.num_documents=2", "eval=offline"),
        *("eval.tasks=[]", "eval.inference.prompts=null", "eval.inference.batch_sizes=[512]"),
    )
    assert "512 prompts of 64 tokens need 32768 tokens, but the corpus has" in sentence
    assert {path.parent.name for path in finished(tmp_path / "store")} == {"shards"}


def test_training_that_diverges_is_told_by_its_step_and_leaves_no_student(tmp_path: Path):
    """The gradient is NaN before the loss, of which a line is written every twenty steps alone."""
    sentence = attempt(
        tmp_path / "run",
        f"store_dir={tmp_path}/store",
        *("paradigm=sft", "training.learning_rate=1e20", FEW),
    )
    assert "the gradient's norm is not finite (NaN or infinite) at step 2: " in sentence
    assert sentence.endswith("lower training.learning_rate=1e+20")
    assert not (tmp_path / "run" / "train.jsonl").exists()
    assert {path.parent.name for path in finished(tmp_path / "store")} == {"shards"}
