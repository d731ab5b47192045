"""A whole run of a pair whose tokenizers differ: refused as one vocabulary, taught by rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdwatts.records.files import read_jsonl
from kdwatts.stages.distill import settings
from tests import whole_runs
from tests.models.reduced import OTHER_ROWS as VOCABULARY
from tests.models.reduced import other_tokenizer


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random teacher of the tiny teacher's depth with a byte-level tokenizer of its own."""
    folder = tmp_path_factory.mktemp("teacher")
    other_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def overrides(teacher_dir: Path, store: Path) -> list[str]:
    shape = {
        "num_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "max_positions": 512,
    }
    return [
        f"store_dir={store}",
        "training=smoke",
        "gpu=cpu",
        "until=distill",
        "training.target_tokens=2048",
        f"model.teacher.path={teacher_dir}",
        *(f"model.teacher.architecture.{name}={value}" for name, value in shape.items()),
    ]


def test_a_teacher_with_another_tokenizer_teaches_by_rank_and_nothing_else(
    teacher_dir: Path, tmp_path: Path
):
    given = overrides(teacher_dir, tmp_path / "store")
    chosen = ["paradigm=universal", "model.one_vocabulary=false"]
    run_dir = whole_runs.run(tmp_path / "run", *given, *chosen)
    rows = list(read_jsonl(run_dir / "train.jsonl"))
    assert all(0 < row["response_nats"] < 2 for row in rows)
    assert json.loads((run_dir / "status.json").read_text())["state"] == "done"

    one_vocabulary = ["paradigm=response", "paradigm.teacher=online"]
    with pytest.raises(ValueError, match=r"vocabularies do not match: .*one_vocabulary=false"):
        whole_runs.run(tmp_path / "refused", *given, *one_vocabulary)


def test_how_the_teacher_reads_is_part_of_the_students_key(configure: Callable[..., Any]):
    configs = [
        configure("paradigm=universal", "gpu=cpu", f"model.one_vocabulary={one}")
        for one in ("true", "false")
    ]
    one, other = (settings(config) for config in configs)
    assert one != other
