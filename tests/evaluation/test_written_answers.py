"""Answers that come from elsewhere than the harness's own model: what is asked, and what counts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.lm_eval import evaluate, load_tasks
from kdwatts.evaluation.lm_tasks import TaskSources
from kdwatts.evaluation.written_answers import AnswerSettings, is_generated
from kdwatts.models.load import load_model, without_weights
from kdwatts.records.schema import Score
from kdwatts.stages.gpu_memory import release
from kdwatts.teacher.decoding import uniform_draws, write_text
from kdwatts.telemetry.meter import Meter
from tests.evaluation import test_answers
from tests.evaluation.test_answers import write_task

CHOICE: dict[str, Any] = test_answers.CHOICE
GENERATE: dict[str, Any] = test_answers.GENERATE


@pytest.fixture
def run(
    configure: Callable[..., Any], tokenizer: Any, meter: Meter, tmp_path: Path
) -> Callable[..., list[Score]]:
    source = configure().model.teacher

    def run(write: Any = None, **changes: Any) -> list[Score]:
        write_task(tmp_path / "tasks", "own", **{**GENERATE, **changes})
        return evaluate(
            without_weights(source) if write else load_model(source, dtype=torch.float32),
            tokenizer,
            [(EvalTask("own", "exact_match"), False)],
            subject="student",
            batch_size=1,
            sources=TaskSources(tasks_dir=tmp_path / "tasks"),
            meter=meter,
            write=write,
        )

    return run


def test_answers_that_another_program_writes_score_and_count_as_the_model_s_own(
    run: Callable[..., list[Score]], configure: Callable[..., Any], tokenizer: Any
):
    model = load_model(configure().model.teacher, dtype=torch.float32)
    calls: list[AnswerSettings] = []

    def write(prompts: Sequence[list[int]], asked: AnswerSettings) -> list[list[int]]:
        calls.append(asked)
        texts = write_text(
            model,
            [torch.tensor(prompt).numpy() for prompt in prompts],
            [uniform_draws([0], asked.new_tokens)] * len(prompts),
            end_ids=[tokenizer.eos_token_id],
            vocabulary=1024,
            temperature=asked.temperature,
        )
        return [text.tolist() for text in texts]

    changes = {"generation_kwargs": {"until": ["zzz"], "max_gen_toks": 9}}
    ours, theirs = run(**changes), run(write, **changes)
    assert [(score.metric, score.value) for score in theirs] == [
        (score.metric, score.value) for score in ours
    ]
    assert theirs[0].tokens == ours[0].tokens
    # Four questions at once, in spite of a batch of one.
    (asked,) = calls
    assert (asked.new_tokens, asked.temperature) == (9, 0.0)
    assert asked.stop == ["zzz", tokenizer.decode(tokenizer.eos_token_id)]


def test_a_model_that_was_scored_is_gone_before_an_engine_takes_its_place(
    configure: Callable[..., Any], tokenizer: Any, meter: Meter, tmp_path: Path
):
    write_task(tmp_path / "tasks", "own", **CHOICE)
    gone: list[Any] = []

    def load() -> Any:
        model = load_model(configure().model.teacher, dtype=torch.float32)
        gone.append(weakref.ref(model))
        return model

    task, sources = (EvalTask("own", "acc"), False), TaskSources(tasks_dir=tmp_path / "tasks")
    loaded = load_tasks([task], sources=sources, meter=meter)
    evaluate(
        load(),
        tokenizer,
        [task],
        subject="student",
        batch_size=4,
        sources=sources,
        meter=meter,
        loaded=loaded,
    )
    assert gone[0]() is not None
    release(torch.device("cpu"))
    assert gone[0]() is None


def test_a_task_that_samples_is_drawn_as_it_asks(run: Callable[..., list[Score]]):
    calls: list[AnswerSettings] = []

    def write(prompts: Sequence[list[int]], asked: AnswerSettings) -> list[list[int]]:
        calls.append(asked)
        return [[5]] * len(prompts)

    drawn = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "until": [], "max_gen_toks": 4}
    run(write, generation_kwargs=drawn)
    assert (calls[0].temperature, calls[0].top_p, calls[0].top_k) == (0.6, 0.95, 0)
    with pytest.raises(RuntimeError, match=r"asks for num_beams, which eval\.engine takes from no"):
        run(write, generation_kwargs={"num_beams": 4, "until": [], "max_gen_toks": 4})


def test_a_failure_of_the_engine_is_its_own_sentence_and_none_of_the_harness(
    run: Callable[..., list[Score]],
):
    def write(prompts: Sequence[list[int]], asked: AnswerSettings) -> list[list[int]]:
        raise RuntimeError("vllm ended with exit code 3")

    with pytest.raises(RuntimeError, match=r"^evaluate: own for the student: vllm ended with exit"):
        run(write)


def test_a_benchmark_of_parts_of_both_kinds_is_refused(tmp_path: Path):
    write_task(tmp_path, "says", **GENERATE)
    write_task(tmp_path, "picks", **CHOICE)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [says, picks]\n")
    sources = TaskSources(tasks_dir=tmp_path)
    tasks = [(EvalTask(name, "acc"), False) for name in ("says", "picks", "both")]
    says, picks, both = load_tasks(tasks, sources=sources, meter=None)
    assert is_generated(says, "says", "vllm") and not is_generated(picks, "picks", "vllm")
    with pytest.raises(ValueError, match=r"eval\.engine=vllm: both has parts that generate and"):
        is_generated(both, "both", "vllm")
