"""The student before its first step: as published, from random weights, or cut from its teacher."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from kdwatts.config.pair import ModelSource, Pair
from kdwatts.models.layers import uniform_pairs
from kdwatts.models.load import load_model, source_fingerprint, weights_fingerprint
from kdwatts.runtime.fingerprint import fingerprint


def initial_blocks(pair: Pair) -> list[int]:
    """The teacher block that each student block begins as, counted from 0. Empty unless asked for.

    `uniform` is the layer map of the feature term: the same relative depth, the last from the last.
    """
    chosen = pair.student.init_from_teacher
    if chosen is None:
        return []
    assert pair.teacher
    if chosen.layers == "explicit":
        return list(chosen.blocks)
    depths = (source.architecture.num_layers for source in (pair.student, pair.teacher))
    return [block for _, block in uniform_pairs(*depths)]


def student_fingerprint(pair: Pair) -> str:
    """A key for the student's first weights.

    Where the student begins as a part of its teacher, the key is made from the teacher's weights.
    """
    blocks = initial_blocks(pair)
    if not blocks:
        return source_fingerprint(pair.student)
    assert pair.teacher
    shape = source_fingerprint(pair.student)
    return fingerprint(
        {"shape": shape, "teacher": weights_fingerprint(pair.teacher), "blocks": blocks}
    )


def student_ancestors(pair: Pair) -> list[ModelSource]:
    """The models whose weights the student begins with."""
    if pair.student.init_from_teacher is None:
        return [pair.student]
    assert pair.teacher
    return [pair.teacher]


def load_student(pair: Pair, *, dtype: torch.dtype, seed: int) -> nn.Module:
    """The student on the CPU, in evaluation mode, with the weights it begins with.

    A student that begins as a part of its teacher takes the embedding, the chosen blocks, the final
    norm and the head. From a quantised teacher it takes the published weights. The pair's checks
    made sure that they fit.
    """
    blocks = initial_blocks(pair)
    student = load_model(pair.student, dtype=dtype, seed=seed)
    if not blocks:
        return student
    assert pair.teacher
    teacher = load_model(replace(pair.teacher, quantization=None), dtype=dtype)
    paths = {f"model.layers.{mine}": f"model.layers.{theirs}" for mine, theirs in enumerate(blocks)}
    paths |= {name: name for name in ("model.embed_tokens", "model.norm", "lm_head")}
    for mine, theirs in paths.items():
        student.get_submodule(mine).load_state_dict(teacher.get_submodule(theirs).state_dict())
    return student
