"""What the device decides: chunk rows, and whether compiling pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.config.experiment import to_dict
from kdwatts.stages import distill, teacher

PAIR = ("model=llama31_8b_to_1b", "training=default", "training.heldout_every=0")
# Llama 3.2 1B: six operations for each weight of its 16 blocks (width 2,048, keys and values 512
# wide, inner width 8,192) and of its head. Half of an H100's 989.4 TFLOP/s.
STUDENT_WEIGHTS = 16 * 2048 * (2 * 2048 + 2 * 512 + 3 * 8192) + 128_256 * 2048
STUDENT_S_PER_TOKEN = 6 * STUDENT_WEIGHTS / (989.4e12 / 2)
# Llama 3.1 8B, two for each: 32 blocks of width 4,096, 1,024 and 14,336.
TEACHER_WEIGHTS = 32 * 4096 * (2 * 4096 + 2 * 1024 + 3 * 14_336) + 128_256 * 4096
TEACHER_S_PER_TOKEN = 2 * TEACHER_WEIGHTS / (989.4e12 / 2)


def tokens_for(saved_s: float, s_per_token: float) -> int:
    """Tokens of a run that compiled code makes shorter by so much: 13.57 % of it."""
    return round(saved_s / (905 / 6667) / s_per_token)


@pytest.mark.parametrize(("num_s", "pays"), [(58, False), (62, True)])
def test_a_student_is_compiled_where_it_saves_more_than_a_minute(
    num_s: int, pays: bool, configure: Callable[..., Any]
):
    tokens = tokens_for(num_s, STUDENT_S_PER_TOKEN)
    config = configure(*PAIR, "gpu=h100", "paradigm=sft", f"training.target_tokens={tokens}")
    assert config.training.is_compiled is pays
    word = "more" if pays else "no more"
    assert config.training.compile_why == (
        f"compiled code saves about {num_s} s of {num_s / (905 / 6667):,.0f} s, which is {word} "
        "than the 60 s that compiling takes"
    )


@pytest.mark.parametrize(("num_s", "pays"), [(178, False), (182, True)])
def test_a_reading_and_a_teacher_are_forms_of_their_own_and_the_teacher_s_time_counts(
    num_s: int, pays: bool, configure: Callable[..., Any]
):
    tokens = tokens_for(num_s, STUDENT_S_PER_TOKEN + TEACHER_S_PER_TOKEN)
    config = configure(
        *PAIR,
        "gpu=h100",
        "paradigm=response",
        "training.heldout_every=10",
        f"training.target_tokens={tokens}",
    )
    assert config.training.is_compiled is pays
    assert "than the 180 s that compiling takes" in config.training.compile_why


@pytest.mark.parametrize(("budget_kj", "pays"), [(300, False), (320, True)])
def test_a_budget_shortens_what_compiling_can_save(
    budget_kj: int, pays: bool, configure: Callable[..., Any]
):
    """442.2 s must be trained for a minute to be saved, and an H100 draws 700 W at most."""
    config = configure(*PAIR, "gpu=h100", "paradigm=sft", f"training.budget_kj={budget_kj}")
    assert config.training.is_compiled is pays


def test_signals_have_the_key_that_a_machine_without_the_gpu_announces(
    configure: Callable[..., Any],
):
    """Slurm's jobs for teachers are named where gpu=auto is still the CPU."""
    asked = (*PAIR, "paradigm=relational")
    here, there = (configure(*asked, f"gpu={gpu}") for gpu in ("cpu", "h100"))
    assert there.training.is_compiled and not here.training.is_compiled
    assert teacher.settings(here) == teacher.settings(there)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("gpu=cpu", "training.precision=fp32"), "models are not compiled on a CPU"),
        (
            ("gpu=h100", "training.parallel=fsdp"),
            "models are not compiled with training.parallel=fsdp",
        ),
        (
            ("gpu=h100", "paradigm=attention", "training.gradient_checkpointing=true"),
            "models are not compiled with training.gradient_checkpointing=true and "
            "paradigm.relational.level=attention",
        ),
        (
            ("gpu=h100", "gpu.bf16_dense_tflops=null"),
            "the peak rate of gpu=h100 is not known, nor is the time that is saved",
        ),
    ],
    ids=["cpu", "fsdp", "recomputed attention", "unknown rate"],
)
def test_a_long_run_is_not_compiled_where_it_cannot_be(
    overrides: tuple[str, ...], why: str, configure: Callable[..., Any]
):
    training = configure(*PAIR, *overrides).training
    assert not training.is_compiled and training.compile_why == why


def test_what_is_set_is_taken(configure: Callable[..., Any]):
    for value in (True, False):
        training = configure(*PAIR, "gpu=h100", f"training.compile={value}").training
        assert training.is_compiled is value
        assert training.compile_why == "training.compile was set"


@pytest.mark.parametrize("value", ["1", "0", "1.0", "yes", "[true]", "''"])
def test_compile_is_refused_unless_it_is_true_false_or_auto(
    value: str, configure: Callable[..., Any]
):
    with pytest.raises(ValueError, match="is unknown; choose one of true, false, auto"):
        configure("gpu=cpu", f"training.compile={value}")


def test_recomputed_attention_is_refused_where_compiling_is_set(configure: Callable[..., Any]):
    message = (
        "training.compile=true with training.gradient_checkpointing=true and "
        "paradigm.relational.level=attention is not supported; set one of them to its default"
    )
    with pytest.raises(ValueError, match=message):
        configure(
            "gpu=h100",
            "paradigm=attention",
            "training.gradient_checkpointing=true",
            "training.compile=true",
        )


def test_auto_has_the_key_of_what_it_was_resolved_to(configure: Callable[..., Any]):
    cpu = ("gpu=cpu", "training=smoke", "paradigm=response")
    auto, off, on = (
        configure(*cpu, f"training.compile={value}") for value in ("auto", "false", "true")
    )
    assert distill.settings(auto) == distill.settings(off) != distill.settings(on)
    assert teacher.settings(auto) == teacher.settings(off) != teacher.settings(on)
    assert distill.settings(auto)["training"]["compile"] is False
    assert to_dict(auto) == to_dict(off)
    assert "compiled_revision" not in distill.settings(auto)
    assert "compiled" not in teacher.settings(auto)
