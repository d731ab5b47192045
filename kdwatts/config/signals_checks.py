"""Checks of a cached teacher whose signals an engine gives."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.config.serving_checks import VLLM_HEAD_DIM

MOST_K = 256
"""Tokens of a position that an engine is asked for. An answer has about 70 bytes for each."""

MORE_TOKENS = 2
"""What a row takes beyond its own tokens: vLLM describes a token before it is read, so one more is
read, and one is written."""


def check_signals_engine(config: Config, num_ranks: int) -> None:
    """Raise ValueError unless the engine can give all that the cache is to hold.

    Beside a paradigm that asks no teacher, as a baseline in a sweep, the engine is not used.
    """
    engine = config.paradigm.signals_engine
    if engine == "loop" or not config.paradigm.needs_signals:
        return
    found = _of_paradigm(config) or _of_teacher(config)
    if not found and num_ranks > 1:
        found = f"this launch has {num_ranks} ranks", "run it in one process"
    if found:
        what, advice = found
        raise ValueError(
            f"paradigm.signals_engine={engine} gives the likeliest tokens of a cached teacher at "
            f"temperature 1, and {what}; {advice}, or set paradigm.signals_engine=loop"
        )


def _of_paradigm(config: Config) -> tuple[str, str] | None:
    """What the terms ask for and an engine does not say, and what to set instead."""
    paradigm, response = config.paradigm, config.paradigm.response
    if paradigm.teacher != "cached":
        return f"this paradigm has teacher={paradigm.teacher}", "set paradigm.teacher=cached"
    for name in ("feature", "relational"):
        if getattr(paradigm, name):
            return f"the {name} term needs hidden states", f"set paradigm.{name}=null"
    assert response, "it is the only other term that asks the teacher"
    if response.support != "top_k":
        return (
            f"this response term has support={response.support}",
            "set paradigm.response.support=top_k",
        )
    temperatures = sorted({response.temperature, *response.teacher_temperatures})
    if temperatures != [1.0]:
        return (
            f"this response term needs temperatures {temperatures}",
            "set paradigm.response.temperature=1 and paradigm.response.teacher_temperatures=[1]",
        )
    if response.k > MOST_K:
        return (
            f"paradigm.response.k={response.k} is above {MOST_K}, where its answers get too long",
            f"set paradigm.response.k={MOST_K} or less",
        )
    return None


def _of_teacher(config: Config) -> tuple[str, str] | None:
    """What the teacher or its rows do not allow, and what to set instead."""
    student, teacher = config.model.student.architecture, config.model.teacher
    assert teacher, "a paradigm that asks a teacher has one"
    shape, length = teacher.architecture, config.training.sequence_length
    if shape.vocab_size > student.vocab_size:
        return (
            f"its probabilities are over the {shape.vocab_size:,} rows of the teacher's "
            f"vocabulary, of which the student has {student.vocab_size:,}",
            "choose a pair with equal vocabularies",
        )
    if length + MORE_TOKENS > shape.max_positions:
        return (
            f"training.sequence_length={length} and {MORE_TOKENS} more tokens exceed the "
            f"teacher's context of {shape.max_positions}",
            f"set training.sequence_length={shape.max_positions - MORE_TOKENS} or less",
        )
    if teacher.quantization:
        return (
            f"model.teacher.quantization={teacher.quantization} would be another one there",
            "set model.teacher.quantization=null",
        )
    if shape.head_dim < VLLM_HEAD_DIM:
        return (
            f"vLLM needs heads at least {VLLM_HEAD_DIM} wide, while those of the teacher are "
            f"{shape.head_dim} wide",
            "choose another pair",
        )
    return None
