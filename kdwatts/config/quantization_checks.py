"""Checks of `eval.serving.quantizations` against models, machine and tasks, before training."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture, ModelSource

GROUP_SIZES = (128, 64, 32)
"""Inputs that share a scale in 4 bits: the first of these that divides the inputs of every layer.

vLLM serves these on CPUs and on GPUs (vLLM 0.32).
"""

_BEFORE = ("shards", "contamination", "generate", "teacher", "distill")
"""A run that ends with one of these stages quantises nothing."""

_SETTING = "eval.serving.quantizations"


def check_quantizations(config: Config) -> None:
    """Raise ValueError where a model cannot be rounded, scored or served as is asked."""
    asked = config.eval.serving
    if not asked.quantizations or config.until in _BEFORE:
        return
    teacher = config.model.teacher
    if teacher and teacher.quantization:
        raise ValueError(
            f"{_SETTING}={asked.quantizations} begins with a teacher as published, and "
            f"model.teacher.quantization={teacher.quantization}; set one of them to nothing"
        )
    flags = [*asked.transformers.flags, *asked.vllm.flags]
    if own := next((flag for flag in flags if flag.startswith(("--quantization", "-q"))), None):
        raise ValueError(
            f"{_SETTING}={asked.quantizations} and the engine's flag {own} would both quantise; "
            "leave one of them out"
        )
    if any(task.harness == "lighteval" for task in config.eval.tasks):
        raise ValueError(
            f"{_SETTING}={asked.quantizations} with eval tasks of lighteval is not supported; "
            "score by tasks of lm_eval, or leave the list empty"
        )
    for quantization in asked.quantizations:
        _check_machine(config, quantization)
        for subject, source in (("student", config.model.student), ("teacher", teacher)):
            if source and quantization == "int4":
                _check_groups(source, subject, config.model.name)


def _check_machine(config: Config, quantization: str) -> None:
    """Raise ValueError for what the engine cannot compute on the machine of the run."""
    if quantization == "fp8" and config.gpu.name.startswith("a100"):
        raise ValueError(
            f"{_SETTING} has fp8, and gpu={config.gpu.name} cannot multiply in fp8: an engine "
            "rounds only the weights there, and the harness more; take int8 or int4"
        )
    is_on_cpu = config.gpu.device == "cpu" and config.eval.serving.engine == "vllm"
    if quantization == "int4" and is_on_cpu and config.training.precision != "bf16":
        raise ValueError(
            f"{_SETTING} has int4, which vLLM serves on a CPU beside bf16 alone, and "
            f"training.precision={config.training.precision}; set training.precision=bf16, or "
            "leave int4 out"
        )


def _check_groups(source: ModelSource, subject: str, pair: str) -> None:
    if group_size(source.architecture) is None:
        least = GROUP_SIZES[-1]
        width = next(n for n in linear_inputs(source.architecture) if n % least)
        raise ValueError(
            f"{_SETTING} has int4, and the {subject} of model={pair} has layers of {width} inputs, "
            f"which is no multiple of {least}; leave int4 out, or choose another pair"
        )


def group_size(shape: Architecture) -> int | None:
    """The inputs that share a scale in 4 bits. None where no size divides those of every layer."""
    inputs = linear_inputs(shape)
    return next((size for size in GROUP_SIZES if not any(n % size for n in inputs)), None)


def linear_inputs(shape: Architecture) -> list[int]:
    """Inputs of the linear layers of a block: projections, output of attention, end of the MLP."""
    return [shape.hidden_size, shape.num_heads * shape.head_dim, shape.intermediate_size]
