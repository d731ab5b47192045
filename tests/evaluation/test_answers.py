"""A model that says NaN has no score; one metric or task that fails does not cost the others."""

from __future__ import annotations

import copy
import json
import logging
import math
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.aggregation import Guarded
from kdwatts.evaluation.answers import NotFinite, finite_logits
from kdwatts.evaluation.lighteval import mean_over_tasks
from kdwatts.evaluation.lighteval_child import Refusal, number_or_nan, refuse_not_finite
from kdwatts.evaluation.lm_eval import bits_per_byte_stderr, evaluate
from kdwatts.evaluation.lm_tasks import TaskSources
from kdwatts.records.files import read_json
from kdwatts.records.schema import Score
from kdwatts.stages.evaluate import keep_scores
from kdwatts.telemetry.meter import Meter

QUESTIONS = [
    {"question": f"Take {n}", "choices": ["red", "green"], "label": n % 2} for n in range(4)
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{label}}",
}
METRIC = {"aggregation": "mean", "higher_is_better": True}
RESULTS = """
def margin(doc, results):
    return {"acc": 1.0, "margin": float("nan")}

def broken(doc, results):
    return {"acc": doc["answer"]}
"""


def write_task(folder: Path, name: str, *, rows: list[dict[str, Any]] = QUESTIONS, **more: Any):
    """A YAML task of `folder`, whose functions lie in results.py."""
    folder.mkdir(exist_ok=True)
    (folder / "results.py").write_text(RESULTS)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "metric_list": [{"metric": "acc", **METRIC}],
        **more,
    }
    text = yaml.safe_dump(definition)
    for function in ("margin", "broken"):
        text = text.replace(f"'!results.{function}'", f"!function results.{function}")
    (folder / f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def model(configure: Callable[..., Any]) -> Any:
    from kdwatts.models.load import load_model

    return load_model(configure().model.teacher, dtype=torch.float32)


@pytest.fixture
def damaged(model: Any) -> Any:
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.model.layers[2].mlp.down_proj.weight[5, 7] = torch.nan
    return damaged


def run(
    model: Any, tokenizer: Any, meter: Meter, folder: Path, tasks: dict[str, str], **more: Any
) -> list[Score]:
    return evaluate(
        model,
        tokenizer,
        [(EvalTask(name, metric), False) for name, metric in tasks.items()],
        subject="student",
        batch_size=4,
        sources=TaskSources(tasks_dir=folder),
        meter=meter,
        **more,
    )


GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "red",
    "metric_list": [{"metric": "exact_match", **METRIC}],
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("bits_per_byte", "word_perplexity")],
}
WORDLESS = [{"text": "山下的小村里住着一位老木匠" * 20}] * 2


def test_a_task_prints_nothing_in_a_folder_that_is_no_repository(
    model: Any,
    tokenizer: Any,
    meter: Meter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    write_task(tmp_path / "tasks", "own", **CHOICE)
    monkeypatch.chdir(tmp_path)
    assert run(model, tokenizer, meter, tmp_path / "tasks", {"own": "acc"})
    assert "git" not in capfd.readouterr().err


def test_a_task_s_joules_hold_no_other_program(
    model: Any, tokenizer: Any, meter: Meter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    write_task(tmp_path / "tasks", "own", **CHOICE)
    assert run(model, tokenizer, meter, tmp_path / "tasks", {"own": "acc"})
    assert not started


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        ("acc", CHOICE),
        ("exact_match,none", GENERATE),
        ("bits_per_byte", {**ROLLING, "rows": WORDLESS}),
    ],
)
def test_a_model_that_says_nan_has_no_score_of_any_kind_of_task(
    metric: str, more: Any, damaged: Any, tokenizer: Any, meter: Meter, tmp_path: Path
):
    write_task(tmp_path / "tasks", "own", **more)
    with pytest.raises(
        RuntimeError, match=r"own for the student: the student's logits are not finite .* check the"
    ):
        run(damaged, tokenizer, meter, tmp_path / "tasks", {"own": metric})


def test_a_metric_that_is_no_number_is_empty_and_named_and_the_others_are_kept(
    model: Any, tokenizer: Any, meter: Meter, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    margin = {"metric_list": [{"metric": name, **METRIC} for name in ("acc", "margin")]}
    folder = tmp_path / "tasks"
    write_task(folder, "own", **CHOICE, **margin, process_results="!results.margin")
    write_task(folder, "wordless", rows=WORDLESS, **ROLLING)
    with caplog.at_level(logging.WARNING, logger="kdwatts"):
        scores = run(model, tokenizer, meter, folder, {"own": "acc", "wordless": "word_perplexity"})
    found = {(score.task, score.metric): score.value for score in scores}
    assert found["own", "acc"] == 1.0
    # 780 bytes a word: exp of a thousand nats and more is beyond a float.
    assert found["own", "margin"] is None and found["wordless", "word_perplexity"] is None
    assert found["wordless", "bits_per_byte"] and found["wordless", "bits_per_byte"] > 1
    assert "margin of own is nan for the student" in caplog.text
    assert "word_perplexity of wordless is nan for the student" in caplog.text


def test_what_the_harness_raises_is_told_by_task_and_costs_no_score_before_it(
    model: Any, tokenizer: Any, meter: Meter, tmp_path: Path
):
    write_task(tmp_path / "tasks", "good", **CHOICE)
    write_task(tmp_path / "tasks", "bad", **CHOICE, process_results="!results.broken")
    scores: list[Score] = []
    with pytest.raises(RuntimeError, match=r"bad for the student: lm-eval raised KeyError \('answ"):
        run(
            model,
            tokenizer,
            meter,
            tmp_path / "tasks",
            {"good": "acc", "bad": "acc"},
            into=scores,
        )
    assert [(score.task, score.metric) for score in scores] == [("good", "acc")]
    rows = [asdict(score) for score in scores]
    keep_scores(tmp_path, "student", rows)
    keep_scores(tmp_path, "teacher", rows)
    assert [row["value"] for row in read_json(tmp_path / "eval.json")] == [scores[0].value] * 2


def test_a_guarded_function_is_the_function_to_whoever_looks_it_up():
    def mean(items: Any) -> float:
        return sum(items) / len(items)

    guarded = Guarded(mean)
    assert guarded([1, 3]) == 2 and math.isnan(guarded([]))
    assert guarded in [max, mean] and {mean: "error"}[guarded] == "error"
    assert guarded.__name__ == "mean"


def test_bits_of_texts_without_a_byte_have_no_error():
    assert bits_per_byte_stderr([{"bits_per_byte": (-1.0, 0)}] * 2) is None


@pytest.mark.parametrize(
    ("watch", "refusal"), [(finite_logits, NotFinite), (refuse_not_finite, Refusal)]
)
def test_tokens_written_of_nan_are_refused_here_and_in_the_process_of_lighteval(
    watch: Any, refusal: type[Exception], make_llama: Callable[..., Any]
):
    model = make_llama()
    ids = torch.tensor([[1, 2, 3]])
    with watch(model, "student"):
        model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        model.lm_head.weight[5, 0] = torch.nan
    with pytest.raises(refusal, match=r"student's logits are not finite"), watch(model, "student"):
        model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    model(ids)  # Nobody watches any more.


def test_a_metric_of_lighteval_that_is_no_number_makes_its_groups_mean_none_alone():
    assert (
        math.isnan(number_or_nan(None))
        and math.isnan(number_or_nan([1, 2]))
        and number_or_nan(2) == 2.0
    )

    def one(acc: float, other: float) -> dict[str, Any]:
        values = {"acc": acc, "other": other}
        metrics = {
            name: {"value": value, "stderr": number_or_nan(None), "higher_is_better": True}
            for name, value in values.items()
        }
        return {"metrics": metrics, "num_samples": 5}

    means = mean_over_tasks({"a": one(0.25, 1.0), "b": one(0.75, math.nan)})["metrics"]
    assert means["acc"]["value"] == 0.5
    assert math.isnan(means["other"]["value"])
