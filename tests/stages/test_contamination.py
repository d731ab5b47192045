"""Evaluation texts in the corpus: reported beside the run, or left out of the shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken

from kdwatts.config.evaluation import EvalTask
from kdwatts.data.overlap import words_of
from kdwatts.evaluation.lm_eval import task_texts
from kdwatts.evaluation.lm_tasks import TaskSources
from kdwatts.evaluation.tasks.mmlu_dev import read_questions
from kdwatts.models.load import load_tokenizer
from kdwatts.records.files import read_json
from tests import whole_runs

QUESTION = max(read_questions(), key=lambda question: len(question["question"].split()))
NUMBER = read_questions().index(QUESTION)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Forty texts of their own and two that quote a question of MMLU, in other type."""
    rows = [{"id": f"clean-{i}", "text": f"Text {i} says so. " * 9} for i in range(40)]
    for i in (7, 30):
        quoted = QUESTION["question"].upper().replace(" ", "  ")
        rows.insert(i, {"id": f"quote-{i}", "text": f"It asks: {quoted} Indeed."})
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["gpu=cpu", "eval=mmlu_dev", f"data.source.path={path}"]


def run(tmp_path: Path, name: str, *overrides: str) -> Path:
    return whole_runs.run(tmp_path / name, f"store_dir={tmp_path}/store", *overrides)


def stages(*overrides: str) -> dict[str, str]:
    return whole_runs.keys_of("gpu=cpu", *overrides)


def test_a_task_s_texts_are_all_strings_of_the_documents_that_it_scores():
    texts = task_texts(EvalTask("mmlu_dev", "acc", limit=3), TaskSources())
    assert len(texts) == 281
    assert texts[NUMBER][:2] == [QUESTION["subject"], QUESTION["question"]]
    assert set(QUESTION["choices"]) < set(texts[NUMBER])
    (macbeth, *_) = task_texts(EvalTask("tiny:held_out", "bits_per_byte"), TaskSources())
    assert any("MACBETH" in string for string in macbeth)


def test_a_report_says_which_questions_stand_in_which_documents_of_the_shards(
    asked: list[str], tmp_path: Path
):
    wanted = [*asked, "until=contamination", "data.decontaminate.mode=report"]
    report = read_json(run(tmp_path, "run", *wanted) / "contamination.json")
    assert (report["num_documents"], report["num_documents_hit"]) == (42, 2)
    found = report["tasks"]["mmlu_dev"]
    assert (found["num_texts"], found["num_texts_hit"], found["num_documents_hit"]) == (281, 1, 2)
    assert [(e["document"], e["text"]) for e in found["examples"]] == [(7, NUMBER), (30, NUMBER)]
    assert found["examples"][0]["words"] in " ".join(words_of(QUESTION["question"]))
    # A second run finds it in the store, and has it in its own folder too.
    assert read_json(run(tmp_path, "again", *wanted) / "contamination.json") == report


MARKS = ("<|user|>", "<|assistant|>")
GLUED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end_of_text|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Puts text directly against its marks, as those of Mistral and DeepSeek do."""


def glued_tokenizer(folder: Path, *, special: bool) -> str:
    tokenizer = load_tokenizer("tiny:tokenizer")
    tokenizer.chat_template = GLUED
    tokenizer.add_tokens([AddedToken(mark, special=special) for mark in MARKS])
    # Words and runs of blanks that a tokenizer adds are no marks.
    tokenizer.add_tokens([AddedToken(word) for word in ("following", " of", "  ")])
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("special", [True, False])
def test_every_question_is_found_where_a_template_puts_text_directly_against_its_marks(
    special: bool, tmp_path: Path
):
    questions = read_questions()
    words = [len(words_of(question["question"])) for question in questions]
    turns = [
        [{"role": "user", "content": q["question"]}, {"role": "assistant", "content": "So it is."}]
        for q in questions
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    tokenizer = glued_tokenizer(tmp_path / "tokenizer", special=special)
    asked = ["gpu=cpu", "eval=mmlu_dev", f"data.source.path={path}", f"model.tokenizer={tokenizer}"]
    asked += ["data.source.text_field=null", "data.source.messages_field=messages"]
    wanted = ["until=contamination", "data.decontaminate.mode=report"]
    report = read_json(run(tmp_path, "run", *asked, *wanted) / "contamination.json")
    # Of the questions, those of fewer than eight words are too short to be looked for.
    num_long = sum(count >= 8 for count in words)
    assert report["num_documents_hit"] == num_long
    assert report["tasks"]["mmlu_dev"]["num_texts_hit"] >= num_long


def test_no_run_of_words_reaches_over_a_turn_s_end_in_reports_and_drops_alike(tmp_path: Path):
    words = QUESTION["question"].split()[:20]
    # Ten words in each turn: no run of thirteen stands in either.
    turns = [
        {"role": "user", "content": " ".join(words[:10])},
        {"role": "assistant", "content": " ".join(words[10:])},
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"messages": turns}))
    tokenizer = glued_tokenizer(tmp_path / "tokenizer", special=True)
    asked = ["gpu=cpu", "eval=mmlu_dev", f"data.source.path={path}", f"model.tokenizer={tokenizer}"]
    asked += ["data.source.text_field=null", "data.source.messages_field=messages"]
    for mode, until in (("report", "contamination"), ("drop", "shards")):
        wanted = [f"until={until}", f"data.decontaminate.mode={mode}"]
        report = read_json(run(tmp_path, mode, *asked, *wanted) / "contamination.json")
        assert (report["num_documents"], report["num_documents_hit"]) == (1, 0)


def test_documents_with_questions_are_left_out_and_told_by_their_ids(
    asked: list[str], tmp_path: Path
):
    run_dir = run(tmp_path, "run", *asked, "until=shards", "data.decontaminate.mode=drop")
    (directory,) = (path.parent for path in (tmp_path / "store/shards").glob("*/index.json"))
    index = read_json(directory / "index.json")
    assert index["num_documents"] == 40
    assert index["parts"][0]["num_dropped"] == {"contaminated": 2}
    report = read_json(directory / "contamination.json")
    assert report == read_json(run_dir / "contamination.json")
    examples = report["tasks"]["mmlu_dev"]["examples"]
    assert [example["document"] for example in examples] == ["quote-7", "quote-30"]


def test_a_task_that_cannot_be_read_is_null_with_a_reason_and_never_clean(
    asked: list[str], tmp_path: Path
):
    tasks = "eval.tasks=[{name:mmlu_dev,primary_metric:acc},{name:piqa,primary_metric:acc}]"
    wanted = [*asked, tasks]
    run_dir = run(tmp_path, "run", *wanted, "until=contamination", "data.decontaminate.mode=report")
    found = read_json(run_dir / "contamination.json")["tasks"]
    assert found["mmlu_dev"]["num_texts_hit"] == 1
    assert found["piqa"]["num_texts"] is found["piqa"]["num_texts_hit"] is None
    assert found["piqa"]["reason"].startswith("its texts cannot be read here: ")
    with pytest.raises(RuntimeError, match=r"mode=drop needs the texts of all tasks, and some"):
        run(tmp_path, "drop", *wanted, "until=shards", "data.decontaminate.mode=drop")


def test_a_report_changes_no_key_of_what_trains_and_dropping_changes_all(asked: list[str]):
    off = stages(*asked)
    report = stages(*asked, "data.decontaminate.mode=report")
    assert report.keys() - off.keys() == {"contamination"}
    assert {name: key for name, key in report.items() if name != "contamination"} == off
    other = stages(*asked, "data.decontaminate.mode=report", "eval=tiny")
    assert other["contamination"] != report["contamination"]
    assert other["shards"] == report["shards"]
    drop = stages(*asked, "data.decontaminate.mode=drop")
    assert drop.keys() == off.keys() and drop["shards"] != off["shards"]
    wider = stages(*asked, "data.decontaminate.mode=drop", "data.decontaminate.ngram=8")
    assert wider["shards"] != drop["shards"]


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ("none", "eval=none has no tasks; choose eval tasks of lm_eval, or data.decontaminate"),
        ("lighteval", "has arc:challenge, .*, gsm8k, which only lighteval can read; choose eval"),
    ],
)
def test_dropping_for_texts_that_nobody_can_read_is_refused(
    evaluation: str, said: str, configure: Callable[..., Any]
):
    with pytest.raises(ValueError, match=said):
        configure(f"eval={evaluation}", "eval.inference=null", "data.decontaminate.mode=drop")
