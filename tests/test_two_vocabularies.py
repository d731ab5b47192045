"""A whole run of a pair whose tokenizers differ: refused as one vocabulary, taught by rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records.files import read_jsonl
from kdwatts.stages.distill import settings
from tests import whole_runs
from tests.models.reduced import save_other_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The folder and the shape of a random teacher with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("teacher")
    return folder, save_other_teacher(folder)


def overrides(teacher: tuple[Path, dict[str, int]], store: Path) -> list[str]:
    teacher_dir, shape = teacher
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
    teacher: tuple[Path, dict[str, int]], tmp_path: Path
):
    given = overrides(teacher, tmp_path / "store")
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
