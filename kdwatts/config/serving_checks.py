"""Checks of serving under load against models, machine and launch."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.config.serving import RunningServers

VLLM_HEAD_DIM = 32
"""Width of the narrowest head that vLLM's attention takes (vLLM 0.32)."""


def check_serving(config: Config, num_ranks: int) -> None:
    """Raise ValueError where the engine that is asked for cannot serve the models of the pair."""
    asked = config.eval.serving
    if not asked.is_measured or config.until not in ("serving", "plan", "prefetch"):
        return
    engine = asked.engine
    if num_ranks > 1:
        raise ValueError(
            f"eval.serving.engine={engine} is measured by one process, and this launch has "
            f"{num_ranks} ranks; set eval.serving.engine=loop, and measure the trained student by "
            "`python -m kdwatts.serving`"
        )
    url = asked.url
    if engine == "url" and config.model.teacher and url.student and url.student == url.teacher:
        _check_two_models(url)
    tokens = asked.workload.prompt_tokens, asked.workload.output_tokens
    for subject, source in (("student", config.model.student), ("teacher", config.model.teacher)):
        if source is None:
            continue
        shape = source.architecture
        if asked.replay.log is None and sum(tokens) > shape.max_positions:
            raise ValueError(
                f"eval.serving.workload: {tokens[0]} prompt + {tokens[1]} output tokens exceed the "
                f"{subject}'s context of {shape.max_positions}; shorten one of them"
            )
        if engine == "vllm" and shape.head_dim < VLLM_HEAD_DIM:
            raise ValueError(
                f"eval.serving.engine=vllm needs heads at least {VLLM_HEAD_DIM} wide, and the "
                f"{subject} of model={config.model.name} has heads {shape.head_dim} wide; choose "
                "engine=transformers or another pair"
            )
        if engine == "url" and not getattr(asked.url, subject):
            raise ValueError(
                f"eval.serving.engine=url needs the address of the {subject}'s server, and "
                f"eval.serving.url.{subject} is null; give one such as http://127.0.0.1:8000"
            )
        if engine == "vllm" and source.quantization == "int8":
            raise ValueError(
                "model.teacher.quantization=int8 with eval.serving.engine=vllm is not supported: "
                "vLLM quantises to 8 bits only what was saved so; set int4 or null, or choose "
                "engine=transformers"
            )


def _check_two_models(url: RunningServers) -> None:
    """Raise ValueError where one address has one name for both subjects."""
    if url.student_model == url.teacher_model:
        raise ValueError(
            f"eval.serving.url has the address {url.student} for student and teacher, and no two "
            "names, so one model would be measured as both; give each an address, or set "
            "student_model and teacher_model"
        )
