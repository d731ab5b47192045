"""Checks of the engines that write text: the teacher's, and answers of tasks."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.config.serving_checks import VLLM_HEAD_DIM


def check_writers(config: Config) -> None:
    """Raise ValueError where an engine is to write what it cannot, or what nobody asks of it."""
    paradigm, pair = config.paradigm, config.model
    generate = paradigm.generate
    if generate and generate.engine != "loop":
        asked = f"paradigm.generate.engine={generate.engine}"
        if paradigm.text == "student":
            raise ValueError(
                f"{asked} with paradigm.text=student is not supported: the weights of the student "
                "that writes change while it trains, and an engine reads them from files; set "
                "paradigm.generate.engine=loop"
            )
        assert pair.teacher, "a paradigm without a teacher has none write"
        _check_model(config, "teacher", pair.teacher, generate.engine, asked)
        _check_flags(config, generate.engine, asked)
    if config.eval.engine != "loop" and config.eval.tasks:
        asked = f"eval.engine={config.eval.engine}"
        for subject, source in (("student", pair.student), ("teacher", pair.teacher)):
            if source:
                _check_model(config, subject, source, config.eval.engine, asked)
        _check_flags(config, config.eval.engine, asked)


def _check_model(
    config: Config, subject: str, source: ModelSource, engine: str, asked: str
) -> None:
    if engine != "vllm":
        return
    width = source.architecture.head_dim
    if width < VLLM_HEAD_DIM:
        raise ValueError(
            f"{asked} needs heads at least {VLLM_HEAD_DIM} wide, and the {subject} of "
            f"model={config.model.name} has heads {width} wide; choose transformers, loop or "
            "another pair"
        )
    if source.quantization == "int8":
        raise ValueError(
            f"model.{subject}.quantization=int8 with {asked} is not supported: vLLM quantises to 8 "
            "bits only what was saved so; set int4 or null, or choose transformers or loop"
        )


def _check_flags(config: Config, engine: str, asked: str) -> None:
    """Raise ValueError for flags with which a text would depend on the texts beside it."""
    flags = config.eval.serving.transformers.flags
    if engine == "transformers" and any(
        flag.replace("_", "-").startswith("--continuous-b") for flag in flags
    ):
        raise ValueError(
            f"{asked} with --continuous-batching in eval.serving.transformers.flags is not "
            "supported: transformers serve then writes all texts with the settings of the first; "
            "leave the flag out, or choose vllm"
        )
