"""What `eval.serving.quantizations` refuses before anything is built, each in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

Configure = Callable[..., Any]

VLLM = ("gpu=cpu", "eval=tiny", "model=qwen25_7b_to_0b5", "eval.serving.engine=vllm")
TINY = ("gpu=cpu", "eval=tiny", "eval.serving.engine=transformers")
LIST = "eval.serving.quantizations="


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([*TINY, f"{LIST}[int3]"], "int3 is unknown; choose one of int8, int4, fp8"),
        ([*TINY, f"{LIST}[int8,int8]"], "has one twice; give each once"),
        (["gpu=cpu", f"{LIST}[int8]"], "eval.serving.engine=loop is none; set "),
        (
            [*TINY, "eval.serving.engine=url", f"{LIST}[int8]"],
            "needs a server that kdwatts starts, and eval.serving.engine=url is none",
        ),
        (
            [*TINY, f"{LIST}[int8,int4]"],
            "the student of model=tiny has layers of 48 inputs, which ",
        ),
        (
            [*VLLM, "training.precision=fp32", f"{LIST}[int4]"],
            "vLLM serves on a CPU beside bf16 alone, and training.precision=fp32; set "
            "training.precision=bf16",
        ),
        (
            [*VLLM, "gpu=a100_80", f"{LIST}[fp8]"],
            "gpu=a100_80 cannot multiply in fp8",
        ),
        (
            [*VLLM, "gpu=h100", "model.teacher.quantization=int4", f"{LIST}[int4]"],
            "begins with a teacher as published, and model.teacher.quantization=int4",
        ),
        (
            [*VLLM, "eval.serving.vllm.flags=['--quantization=fp8']", f"{LIST}[int8]"],
            "the engine's flag --quantization=fp8 would both quantise",
        ),
        (
            [*TINY, "eval.tasks.0.harness=lighteval", f"{LIST}[int8]"],
            "with eval tasks of lighteval is not supported",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_rounded_scored_or_served_is_refused_before_training(
    overrides: list[str], sentence: str, configure: Configure
):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        configure(*overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [*TINY, f"{LIST}[int8,fp8]"],
        [*VLLM, "training.precision=bf16", f"{LIST}[int8,int4,fp8]"],
        [*VLLM, "training.precision=fp32", f"{LIST}[int8,fp8]"],
        [*VLLM, "gpu=h100", "training.precision=bf16", f"{LIST}[int8,int4,fp8]"],
        # A run that ends before quantises nothing.
        [*TINY, f"{LIST}[int4]", "until=distill"],
    ],
    ids=lambda value: value[-1],
)
def test_what_the_engines_serve_is_taken(overrides: list[str], configure: Configure):
    assert configure(*overrides).eval.serving.quantizations
