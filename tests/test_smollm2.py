"""A real public pair, end to end: SmolLM2 135M teaches its every second block on real text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.records.files import read_jsonl

TEACHER = Path("runs/models/smollm2-135m-instruct")
SHORT = (
    "model=smollm2_135m_to_81m",
    "gpu=cpu",
    "training.target_tokens=3072",
    "training.sequence_length=128",
    "training.micro_batch=4",
    "training.heldout_every=3",
    "training.heldout_tokens=512",
    "training.log_every=1",
    "eval.inference=null",
)
LIMITS = {"mmlu_dev": 1, "tiny:held_out": 4, "tiny:word_order": 20}
"""Documents of each task, of MMLU of each of its 57 subjects."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both students, who share their teacher's evaluation."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
@pytest.mark.skipif(not TEACHER.is_dir(), reason=f"{TEACHER} is not here; `make smollm2` makes it")
@pytest.mark.parametrize("paradigm", ["response", "feature"])
def test_smollm2_teaches_its_half_and_both_answer_real_questions(
    paradigm: str, store: Path, tmp_path: Path
):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    tree = resolve_gpu(compose([*SHORT, f"paradigm={paradigm}", f"store_dir={store}"]), [])
    for task in tree.eval.tasks:
        task.limit = LIMITS[task.name]
    run_in(run_dir, tree)

    rows = list(read_jsonl(run_dir / "train.jsonl"))
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    heldout = [row["loss"] for row in rows if row["split"] == "heldout"]
    assert len(heldout) >= 2 and heldout[-1] < heldout[0]

    found = {
        (row["subject"], row["benchmark"], row["metric"]): row["value"]
        for row in json.loads((run_dir / "eval.json").read_text())
    }
    bits = {who: found[who, "tiny_held_out", "bits_per_byte"] for who in ("teacher", "student")}
    # It reads Shakespeare as a model of its size does, and its half, hardly trained, far worse.
    assert 1.3 < bits["teacher"] < 2.0 < bits["student"] < 8.0
    assert found["teacher", "tiny_word_order", "acc"] > 0.6
    assert all(0 <= found[who, "mmlu_dev", "acc"] <= 1 for who in bits)

    saved = run_dir / "student"
    assert AutoConfig.from_pretrained(saved).num_hidden_layers == 15
    assert AutoConfig.from_pretrained(saved).rms_norm_eps == 1e-5
    assert AutoTokenizer.from_pretrained(saved).chat_template
