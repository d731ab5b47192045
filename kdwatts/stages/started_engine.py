"""An engine that a stage starts for a model: its settings and its key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers

from kdwatts.config.experiment import Config
from kdwatts.config.serving import Serving
from kdwatts.serving.engines import starting
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.stages.work import frozen_dtype

QUANTIZATION_FLAGS = {
    ("transformers", "int8"): "--quantization=bnb-8bit",
    ("transformers", "int4"): "--quantization=bnb-4bit",
    ("vllm", "int4"): "--quantization=bitsandbytes",
}
"""Engine and model.teacher.quantization to the flag that serves the teacher so."""


def own_flags(asked: Serving) -> list[str]:
    """The flags that the user gives to the engine."""
    own = {"transformers": asked.transformers.flags, "vllm": asked.vllm.flags}
    return list(own.get(asked.engine, []))


def with_bits(asked: Serving, quantization: str | None) -> Serving:
    """The settings with the flag that quantises a teacher; a flag of the user's own stands."""
    flag = QUANTIZATION_FLAGS.get((asked.engine, quantization or ""))
    if flag is None or any(own.startswith(("--quantization", "-q")) for own in own_flags(asked)):
        return asked
    engine = getattr(asked, asked.engine)
    return replace(asked, **{asked.engine: replace(engine, flags=[*engine.flags, flag])})


def model_to_serve(
    config: Config, asked: Serving, subject: str, *, place: str, max_positions: int
) -> ServedModel:
    """A model of the pair as an engine is to serve it. For a key, `place` may be any word."""
    return ServedModel(
        place,
        subject,
        dtype=str(frozen_dtype(config)).removeprefix("torch."),
        device_indices=starting.device_indices(asked, has_gpus=config.gpu.device != "cpu"),
        max_positions=max_positions,
    )


def engine_key(asked: Serving, model: ServedModel) -> dict[str, Any]:
    """The engine as a key has it: name, version, every flag, and the libraries it runs on.

    The path of an interpreter is not in it. Raises ValueError where the engine is not installed or
    cannot be started so.
    """
    record = starting.engine_record(asked, model)
    version = record.version if record else starting.engine_version(asked)
    flags = record.flags if record else []
    key: dict[str, Any] = {"name": asked.engine, "version": version, "flags": flags}
    if asked.engine == "transformers":
        # It runs in our interpreter, whose torch brings the kernels.
        key["libraries"] = {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "transformers": transformers.__version__,
        }
    return key
