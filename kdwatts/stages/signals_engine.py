"""An engine that reads the rows of a cached teacher in place of our own forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.experiment import Config
from kdwatts.config.serving import Serving
from kdwatts.config.signals_checks import MORE_TOKENS
from kdwatts.data.packing import Batch
from kdwatts.models.served_folder import served_folder
from kdwatts.serving.engines import starting
from kdwatts.serving.engines.plan import check_flags, has_flag
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.server import Server
from kdwatts.serving.prompt_logprobs import read_prompts
from kdwatts.stages.gpu_memory import release
from kdwatts.stages.started_engine import engine_key, model_to_serve
from kdwatts.stages.work import Work, plan_signals, teacher_source
from kdwatts.teacher.engine_answers import prompt_of, sparse_of, top_of_answer
from kdwatts.teacher.signals import Signals

LOG_NAME = "teacher_engine.log"

_FLAGS = "eval.serving.vllm.flags"
_OURS = {
    "--max-logprobs": "set paradigm.response.k",
    "--max-model-len": "set training.sequence_length",
    "--logprobs-mode": "leave it out",
    "--skip-tokenizer-init": "leave it out",
    "--enable-prefix-caching": "leave it out: every row is read whole",
}
_OTHER_NUMBERS = ("--quantization", "-q", "--kv-cache-dtype", "--speculative-config")
"""Flags with which an engine computes something else than the teacher."""


def check(config: Config) -> None:
    """Raise ValueError where no engine can be started with these flags. Nothing is started."""
    if config.paradigm.signals_engine == "loop":
        return
    flags = config.eval.serving.vllm.flags
    check_flags(_FLAGS, flags, _OURS)
    for name in _OTHER_NUMBERS:
        if has_flag(flags, [name]):
            raise ValueError(
                f"{_FLAGS} has {name}, and paradigm.signals_engine=vllm needs the teacher's own "
                "probabilities; leave it out, or set paradigm.signals_engine=loop"
            )
    starting.check(_engine(config))


def settings(config: Config) -> dict[str, Any]:
    """What the signals depend on besides teacher and text. Empty for our own forward pass.

    Raises ValueError where the engine cannot be started.
    """
    if config.paradigm.signals_engine == "loop":
        return {}
    check(config)
    return {"engine": engine_key(_engine(config), _served(config, place="teacher"))}


@contextmanager
def engine_running(work: Work) -> Iterator[Server]:
    """The teacher behind its engine. It ends with the context, and its CPU time is the run's."""
    config = work.config
    release(work.device)
    with served_folder(config.model, teacher_source(config), config.model.tokenizer) as folder:
        model = _served(config, place=str(folder))
        with starting.running(_engine(config), model, log_path=work.run_dir / LOG_NAME) as server:
            work.meter.look_for_children()
            yield server


def signals_of_engine(config: Config, server: Server, batch: Batch, *, kept: str) -> Signals:
    """What the teacher behind the engine says of a batch, as `compute_signals` has it.

    Each document of a row is a prompt of its own where documents are respected. Raises what
    `read_prompts` and `top_of_answer` raise; `kept` is for a signal that comes meanwhile.
    """
    plan = plan_signals(config)
    read = partial(
        top_of_answer, k=plan.top_k, vocabulary=plan.vocabulary, engine=server.record.name
    )
    tops = read_prompts(
        server,
        [prompt_of(text) for text in _texts(batch)],
        read,
        k=plan.top_k,
        timeout_s=config.eval.serving.request_timeout_s,
        kept=kept,
    )
    return Signals(sparse=sparse_of(tops))


def _texts(batch: Batch) -> Sequence[NDArray[np.int64]]:
    """The tokens of each row, or of each document in a row, in their order."""
    tokens_BT = batch.input_BT.numpy()
    if batch.position_BT is None:
        return list(tokens_BT)
    begins_BT = batch.position_BT.numpy() == 0
    return [
        text
        for tokens_T, begins_T in zip(tokens_BT, begins_BT, strict=True)
        for text in np.split(tokens_T, np.flatnonzero(begins_T)[1:])
    ]


def _engine(config: Config) -> Serving:
    """vLLM as `eval.serving.vllm` says, with what makes it state the K likeliest tokens."""
    response, asked = config.paradigm.response, config.eval.serving
    assert response, "signals_checks refuses what has no response term"
    own = [
        f"--max-logprobs={response.k}",
        "--logprobs-mode=raw_logprobs",
        "--no-enable-prefix-caching",
        "--skip-tokenizer-init",  # Ids are enough, and answers with words take longer.
    ]
    return replace(asked, engine="vllm", vllm=replace(asked.vllm, flags=[*asked.vllm.flags, *own]))


def _served(config: Config, *, place: str) -> ServedModel:
    context = config.training.sequence_length + MORE_TOKENS
    return model_to_serve(config, _engine(config), "teacher", place=place, max_positions=context)
