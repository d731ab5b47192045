"""An evaluation part of whose answers an engine writes: our loop reads, then the engine writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from kdwatts.config.evaluation import EvalTask
from kdwatts.config.pair import ModelSource
from kdwatts.evaluation.lm_eval import evaluate, load_tasks
from kdwatts.evaluation.lm_tasks import TaskSources
from kdwatts.evaluation.written_answers import AnswerSettings, Write, is_generated
from kdwatts.models.generation_settings import repetition_penalty
from kdwatts.models.load import pair_tokenizer, without_weights
from kdwatts.records.schema import Score
from kdwatts.runtime import interrupt
from kdwatts.serving.text_requests import Sampling, TextRequest, seed_of
from kdwatts.serving.writing import write_texts
from kdwatts.stages.work import Work
from kdwatts.stages.writers import EngineWriter, engine_writer


def evaluate_with_engine(
    work: Work,
    subject: str,
    source: ModelSource,
    tasks: Sequence[tuple[EvalTask, bool]],
    *,
    tokenizer_path: str,
    sources: TaskSources,
    load: Callable[[], nn.Module],
    into: list[Score],
) -> None:
    """Score tasks that compare likelihoods by our own loop, and then those that generate.

    `load` loads the model for the loop. It is gone from the GPU before the engine starts, whose
    start is in a window `load`, too, and whose end is in the window `stop`.
    """
    config, meter, engine = work.config, work.meter, work.config.eval.engine
    loaded = load_tasks(tasks, sources=sources, meter=meter)
    both = list(zip(tasks, loaded, strict=True))
    written = [pair for pair in both if is_generated(pair[1], pair[0][0].name, engine)]
    tokenizer = pair_tokenizer(config.model, tokenizer_path)

    def run(model: nn.Module, some: Sequence[tuple[Any, Any]], write: Write | None = None) -> None:
        evaluate(
            model,
            tokenizer,
            [task for task, _ in some],
            subject=subject,
            batch_size=config.eval.batch_size,
            sources=sources,
            meter=meter,
            into=into,
            loaded=[parts for _, parts in some],
            write=write,
        )

    if read := [pair for pair in both if pair not in written]:
        run(load(), read)
    if not written:
        return
    with ExitStack() as stack:
        with meter.window("load"):
            writer = stack.enter_context(
                engine_writer(work, engine, subject, source, tokenizer_path)
            )
        run(without_weights(source), written, _answers(work, source, writer, tokenizer))
        with meter.window("stop"):
            stack.close()


def _answers(work: Work, source: ModelSource, writer: EngineWriter, tokenizer: Any) -> Write:
    """What the harness's requests go to."""
    rows = source.architecture.vocab_size
    num_groups = 0

    def write(prompts: Sequence[list[int]], asked: AnswerSettings) -> list[list[int]]:
        nonlocal num_groups
        num_groups += 1
        answers: dict[int, list[int]] = {}

        def look() -> None:
            interrupt.stop_if_requested("everything before this evaluation is kept")

        write_texts(
            writer.server,
            [
                # A prompt that is repeated has an answer of its own each time.
                TextRequest(place, prompt, asked.new_tokens, seed_of(num_groups, place))
                for place, prompt in enumerate(prompts)
            ],
            Sampling(
                end_ids=writer.end_ids,
                vocabulary=rows,
                rows=rows,
                temperature=asked.temperature,
                top_p=asked.top_p,
                top_k=asked.top_k,
                repetition_penalty=repetition_penalty(writer.settings),
                stop=asked.stop,
                decode=tokenizer.decode,
            ),
            at_once=work.config.eval.batch_size,
            silence_s=writer.silence_s,
            take=lambda request, ids: answers.update({request.place: ids}),
            look=look,
        )
        return [answers[place] for place in range(len(prompts))]

    return write
