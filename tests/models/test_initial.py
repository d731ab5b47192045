"""Students that begin as part of their teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdwatts.config.pair import Architecture, ModelSource, Pair, TeacherBlocks
from kdwatts.models.initial import (
    initial_blocks,
    load_student,
    student_ancestors,
    student_fingerprint,
)
from kdwatts.models.load import load_model
from kdwatts.records.files import write_json

TEACHER = Architecture("llama", 6, 16, 24, 4, 2, 4, 40, True, 32, norm_epsilon=1e-2)
"""An epsilon that shows in the logits of a model that leaves it out."""
INPUT = torch.arange(20).reshape(2, 10)


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("teacher"), TEACHER)


def _saved(directory: Path, shape: Architecture) -> Path:
    model: Any = load_model(ModelSource(architecture=shape), dtype=torch.float32, seed=7)
    model.save_pretrained(directory)
    return directory


def pair_of(
    teacher_dir: Path,
    blocks: TeacherBlocks | None,
    teacher: Architecture = TEACHER,
    **changes: Any,
) -> Pair:
    shape = replace(teacher, **{"num_layers": 3, **changes})
    student = ModelSource(architecture=shape, init_from_teacher=blocks)
    return Pair(
        "p", "tiny:tokenizer", student, ModelSource(str(teacher_dir), None, teacher), "none"
    )


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        # floor((s + 1) 6/3 + 1/2) - 1: every second block, last from last.
        (TeacherBlocks(), [1, 3, 5]),
        (TeacherBlocks("explicit", [0, 0, 4]), [0, 0, 4]),
    ],
)
def test_every_weight_is_that_of_its_place_in_the_teacher(
    teacher_dir: Path, chosen: TeacherBlocks, expected: list[int]
):
    pair = pair_of(teacher_dir, chosen)
    assert initial_blocks(pair) == expected
    student: Any = load_student(pair, dtype=torch.float32, seed=0)
    assert pair.teacher
    teacher: Any = load_model(pair.teacher, dtype=torch.float32)
    source, copied = teacher.state_dict(), student.state_dict()
    for name, value in copied.items():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(expected[int(parts[2])])
        assert torch.equal(value, source[".".join(parts)]), name
    assert len(copied) == 3 * 9 + 3


def test_a_student_of_every_block_is_its_teacher_and_one_of_others_is_not(teacher_dir: Path):
    said = []
    for blocks in ([0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]):
        pair = pair_of(teacher_dir, TeacherBlocks("explicit", blocks), num_layers=6)
        student = load_student(pair, dtype=torch.float32, seed=0)
        assert pair.teacher
        teacher = load_model(pair.teacher, dtype=torch.float32)
        with torch.no_grad():
            said.append((student(INPUT).logits - teacher(INPUT).logits).abs().max().item())
    assert said[0] == 0 < said[1]


def test_a_head_of_its_own_is_copied_and_a_tied_one_becomes_an_own_one(tmp_path: Path):
    untied = replace(TEACHER, tied_head=False)
    for shape in (untied, TEACHER):
        directory = _saved(tmp_path / str(shape.tied_head), shape)
        pair = pair_of(directory, TeacherBlocks(), teacher=shape, tied_head=False)
        student: Any = load_student(pair, dtype=torch.float32, seed=0)
        assert pair.teacher
        teacher: Any = load_model(pair.teacher, dtype=torch.float32)
        assert torch.equal(student.lm_head.weight, teacher.lm_head.weight)
        assert student.lm_head.weight is not student.model.embed_tokens.weight
        assert torch.equal(student.lm_head.weight, student.model.embed_tokens.weight) == (
            shape.tied_head
        )


def test_without_the_option_a_student_begins_from_its_seed_alone(teacher_dir: Path):
    pair = pair_of(teacher_dir, None)
    expected: Any = load_model(pair.student, dtype=torch.float32, seed=4)
    found: Any = load_student(pair, dtype=torch.float32, seed=4)
    assert torch.equal(found.lm_head.weight, expected.lm_head.weight)
    assert initial_blocks(pair) == [] and student_ancestors(pair) == [pair.student]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 32}, r"needs equal hidden_size, the student of model=p has 32 and its"),
        ({"intermediate_size": 32}, "needs equal intermediate_size"),
        ({"num_kv_heads": 4}, "needs equal num_kv_heads"),
        ({"vocab_size": 48}, "needs equal vocab_size"),
        ({"family": "qwen2"}, "needs equal family"),
        ({"rope_theta": 500000.0}, "needs equal rope_theta"),
        ({"norm_epsilon": 1e-5}, "needs equal norm_epsilon"),
    ],
)
def test_a_student_of_another_shape_is_refused_in_one_sentence(
    teacher_dir: Path, changes: dict[str, Any], said: str
):
    with pytest.raises(ValueError, match=said):
        pair_of(teacher_dir, TeacherBlocks(), **changes)
    pair_of(teacher_dir, None, **changes)


@pytest.mark.parametrize("blocks", [[0, 1], [0, 1, 6]])
def test_blocks_that_are_too_few_or_not_there_are_refused(teacher_dir: Path, blocks: list[int]):
    with pytest.raises(ValueError, match=r"for 3 student and 6 teacher blocks; name a teacher"):
        pair_of(teacher_dir, TeacherBlocks("explicit", blocks))


def test_what_has_no_meaning_is_refused(teacher_dir: Path):
    source = ModelSource(architecture=TEACHER, init_from_teacher=TeacherBlocks())
    with pytest.raises(ValueError, match="model=p has no teacher; set it to null or choose a pair"):
        Pair("p", "t", source, None, "none")
    with pytest.raises(ValueError, match=r"model.teacher.init_from_teacher has no meaning"):
        Pair("p", "t", ModelSource(architecture=TEACHER), source, "none")
    with pytest.raises(ValueError, match="path=a with init_from_teacher: a student begins from"):
        ModelSource("a", None, TEACHER, TeacherBlocks())
    with pytest.raises(ValueError, match=r"blocks=\[1\] does not go with layers=uniform"):
        TeacherBlocks("uniform", [1])
    untied = replace(TEACHER, tied_head=False)
    with pytest.raises(ValueError, match="for which a student with tied_head=true has no place"):
        pair_of(teacher_dir, TeacherBlocks(), teacher=untied, tied_head=True)


def test_the_key_is_of_the_teacher_s_bytes_and_the_blocks(teacher_dir: Path, tmp_path: Path):
    keys = {
        student_fingerprint(pair_of(teacher_dir, blocks))
        for blocks in (
            None,
            TeacherBlocks(),
            TeacherBlocks("explicit", [1, 3, 5]),
            TeacherBlocks("explicit", [0, 3, 5]),
        )
    }
    assert len(keys) == 3  # Uniform and the same blocks by name are the same student.
    changed = _saved(tmp_path, TEACHER)
    write_json(changed / "energy.json", {"schema": 1, "energy_j": 1.0})
    pair = pair_of(changed, TeacherBlocks())
    assert student_fingerprint(pair) not in keys
    assert student_ancestors(pair) == [pair.teacher]
