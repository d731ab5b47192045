"""Tasks of the harness: real questions, local copies for every child, and refusals."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.lm_eval import evaluate, fetch_data
from kdwatts.evaluation.lm_tasks import (
    OWN_TASKS_DIR,
    TaskSources,
    dataset_dir,
    load_task,
    task_files,
)
from kdwatts.evaluation.task_needs import check_known
from kdwatts.evaluation.tasks.mmlu_dev import read_questions
from kdwatts.telemetry.meter import Meter


def test_a_task_that_does_not_ship_is_refused_with_those_that_do():
    with pytest.raises(
        ValueError, match="tiny:nothing does not exist; the package has tiny:held_out"
    ):
        task_files("tiny:nothing")
    assert [path.suffix for path in task_files("tiny:word_order")] == [".yaml", ".jsonl"]
    assert task_files("arc_challenge") == []


def test_the_wheel_of_the_harness_holds_281_whole_mmlu_questions_of_57_subjects():
    questions = read_questions()
    assert len(questions) == 281
    counts = Counter(question["subject"] for question in questions)
    assert len(counts) == 57 and max(counts.values()) == 5
    assert all(len(q["choices"]) == 4 and all(q["choices"]) for q in questions)
    # From the test set's own GPUs: a known question, its choices and its answer.
    (rings,) = [q for q in questions if q["question"].endswith("characteristic of the ring 2Z.")]
    assert (rings["choices"], rings["answer"]) == (["0", "3", "12", "30"], 0)
    # Guessing one letter is worth about a quarter.
    letters = Counter(question["answer"] for question in questions)
    assert max(letters.values()) / 281 < 0.3


def test_the_examples_reasoning_never_reaches_a_prompt():
    for question in read_questions():
        assert "Let's think" not in " ".join([question["question"], *question["choices"]])


@pytest.fixture(scope="module")
def model(configure: Callable[..., Any]) -> Any:
    import torch

    from kdwatts.models.load import load_model

    return load_model(configure().model.teacher, dtype=torch.float32)


def run(model: Any, tokenizer: Any, task: EvalTask, meter: Meter, **sources: Path) -> list[Any]:
    return evaluate(
        model,
        tokenizer,
        [(task, False)],
        subject="teacher",
        batch_size=16,
        sources=TaskSources(**sources),
        meter=meter,
    )


def test_real_questions_are_scored_in_a_window_with_joules_and_tokens(
    model: Any, tokenizer: Any, meter: Meter
):
    task = EvalTask("mmlu_dev", "acc", limit=16)
    (score,) = run(model, tokenizer, task, meter)
    assert (score.task, score.benchmark, score.num_samples) == ("mmlu_dev", "mmlu_dev", 16)
    assert score.energy_j > 0 and score.energy_quality == "estimated"
    # Answers are one token, so a question is read once, cut to the model's 128 tokens.
    prompts = [_prompt(question) for question in read_questions()[:16]]
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert score.tokens == sum(min(length, 128) for length in lengths)


def _prompt(question: dict[str, Any]) -> str:
    letters = [f"{a}. {c}" for a, c in zip("ABCD", question["choices"], strict=True)]
    asked = (
        f"The following are multiple choice questions (with answers) about {question['subject']}."
    )
    return "\n".join([f"{asked}\n\n{question['question']}", *letters, "Answer:"])


def mmlu_rows() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Per subject one question to test, and the others as examples."""
    rows: dict[str, Any] = defaultdict(lambda: {"test": [], "dev": []})
    for question in read_questions():
        splits = rows[question["subject"].replace(" ", "_")]
        name = "dev" if splits["test"] else "test"
        splits[name].append(question)
    return dict(rows)


@pytest.mark.slow
def test_all_57_subjects_of_mmlu_are_read_from_the_local_copy_and_scored_as_one_benchmark(
    model: Any, tokenizer: Any, meter: Meter, tmp_path: Path, write_dataset: Callable[..., None]
):
    write_dataset(tmp_path / "cais" / "mmlu", mmlu_rows())
    task = EvalTask("mmlu", "acc", num_fewshot=2, datasets=["cais/mmlu"])
    scores = run(model, tokenizer, task, meter, data_dir=tmp_path)
    assert {score.num_samples for score in scores if score.task == "mmlu"} == {57}
    # The hub's copy has 100 questions or more of each subject.
    assert len([score for score in scores if score.num_samples == 1]) == 57
    assert len({(s.benchmark, s.energy_j, s.tokens, s.num_fewshot) for s in scores}) == 1


def test_all_27_children_of_bbh_are_read_from_the_local_copy(
    tmp_path: Path, write_dataset: Callable[..., None]
):
    write_dataset(tmp_path / "SaylorTwift" / "bbh", bbh_rows())
    task = EvalTask("bbh", "exact_match,get-answer", num_fewshot=3, datasets=["SaylorTwift/bbh"])
    (group,) = load_task(task, TaskSources(data_dir=tmp_path)).parts
    read = [child.dataset["test"][0]["input"] for child in group.get_all_tasks()]
    assert read == ["LOCAL not ( True ) and ( True ) is"] * 27


def bbh_rows() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """One document, marked as ours, for each of the configurations that the children name."""
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks" / "bbh" / "cot_fewshot"
    names = [
        next(line for line in path.read_text().splitlines() if line.startswith("dataset_name:"))
        for path in folder.glob("[!_]*.yaml")
    ]
    document = {"input": "LOCAL not ( True ) and ( True ) is", "target": "False"}
    return {name.split(": ")[1].strip("'\""): {"test": [document]} for name in names}


def test_another_copy_of_the_same_name_and_lists_is_read_anew(
    tmp_path: Path, write_dataset: Callable[..., None]
):
    """The datasets library alone would give the first copy's documents again."""
    task = EvalTask("gsm8k", "x", num_fewshot=5, datasets=["openai/gsm8k"])
    found = []
    for name in ("one", "other"):
        document = {"question": name, "answer": "#### 1"}
        rows = {"main": {"train": [document], "test": [document]}}
        write_dataset(tmp_path / name / "openai" / "gsm8k", rows)
        (loaded,) = load_task(task, TaskSources(data_dir=tmp_path / name)).parts
        found.append(loaded.dataset["test"][0]["question"])
    assert found == ["one", "other"]


def test_a_dataset_that_was_not_copied_is_refused_with_the_command_that_copies_it(tmp_path: Path):
    with pytest.raises(
        ValueError,
        match=r"task gsm8k reads openai/gsm8k, but there is no folder .*/openai/gsm8k; fetch it "
        "with `hf download openai/gsm8k --repo-type dataset --local-dir",
    ):
        dataset_dir(tmp_path, "openai/gsm8k", "gsm8k")


def test_a_dataset_that_the_option_does_not_name_is_refused_since_it_would_not_be_keyed(
    tmp_path: Path,
):
    with pytest.raises(ValueError, match="gsm8k reads the dataset openai/gsm8k, but its"):
        load_task(EvalTask("gsm8k", "x", num_fewshot=5), TaskSources(data_dir=tmp_path))


def test_a_configuration_that_the_copy_lacks_is_refused(
    tmp_path: Path, write_dataset: Callable[..., None]
):
    write_dataset(tmp_path / "openai" / "gsm8k", {"socratic": {"test": [{"question": "?"}]}})
    with pytest.raises(ValueError, match=r"gsm8k cannot be read as main for gsm8k .*copy openai"):
        load_task(
            EvalTask("gsm8k", "x", num_fewshot=5, datasets=["openai/gsm8k"]),
            TaskSources(data_dir=tmp_path),
        )


def own_task(folder: Path, **changes: Any) -> None:
    """A YAML task beside its data, which it names relatively."""
    definition = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(yaml.safe_dump(definition))
    rows = [{"question": "Is it?", "answer": 0}, {"question": "Is it not?", "answer": 1}]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_folder_of_ones_own_tasks_is_found_with_data_beside_it(
    model: Any, tokenizer: Any, meter: Meter, tmp_path: Path
):
    own_task(tmp_path / "tasks")
    (score,) = run(model, tokenizer, EvalTask("own", "acc"), meter, tasks_dir=tmp_path / "tasks")
    assert (score.task, score.num_samples, score.metric) == ("own", 2, "acc")


def test_data_of_ones_own_is_read_anew_when_its_bytes_change_and_its_time_does_not(tmp_path: Path):
    """The datasets library alone knows a file by its place and time."""
    own_task(tmp_path)
    path, found = tmp_path / "questions.jsonl", []
    for question in ("Is it one?", "Is it two?"):
        path.write_text(json.dumps({"question": question, "answer": 0}) + "\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        (leaf,) = load_task(EvalTask("own", "acc"), TaskSources(tasks_dir=tmp_path)).leaves
        found.append(leaf.dataset["test"][0]["question"])
    assert found == ["Is it one?", "Is it two?"]


def test_a_task_that_changes_between_the_runs_of_a_sweep_is_asked_as_it_is(tmp_path: Path):
    found = []
    for text in ("First: {{question}}", "Then: {{question}}"):
        own_task(tmp_path, doc_to_text=text)
        (leaf,) = load_task(EvalTask("own", "acc"), TaskSources(tasks_dir=tmp_path)).leaves
        found.append(leaf.config.doc_to_text)
    assert found == ["First: {{question}}", "Then: {{question}}"]


def test_what_a_task_of_ones_own_reads_is_fetched_with_its_folder(tmp_path: Path):
    own_task(tmp_path)
    fetch_data(EvalTask("own", "acc"), str(tmp_path))
    with pytest.raises(ValueError, match="has no task 'own'"):
        fetch_data(EvalTask("own", "acc"))


def test_what_ships_is_read_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    for name, count in (("tiny:word_order", 400), ("tiny:held_out", 48), ("mmlu_dev", 281)):
        (leaf,) = load_task(EvalTask(name, "acc"), TaskSources()).leaves
        assert len(leaf.dataset["test"]) == count


def test_a_folder_of_the_working_directory_is_not_read_in_the_place_of_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_dataset: Callable[..., None]
):
    document = {"question": "here", "answer": "#### 1"}
    rows = {"main": {"train": [document], "test": [document]}}
    write_dataset(tmp_path / "openai" / "gsm8k", rows)
    monkeypatch.chdir(tmp_path)
    task = EvalTask("gsm8k", "x", num_fewshot=5, datasets=["openai/gsm8k"])
    with pytest.raises(
        ValueError, match=r"gsm8k reads the folder .*openai/gsm8k, but a change in it would not"
    ):
        load_task(task, TaskSources())
    copied = {"question": "copied", "answer": "#### 1"}
    write_dataset(
        tmp_path / "data" / "openai" / "gsm8k", {"main": {"train": [copied], "test": [copied]}}
    )
    (loaded,) = load_task(task, TaskSources(data_dir=tmp_path / "data")).parts
    assert loaded.dataset["test"][0]["question"] == "copied"


def test_a_task_that_samples_nothing_is_run_once_whatever_it_asks(tmp_path: Path):
    words = {"output_type": "generate_until", "doc_to_choice": None, "repeats": 3}
    own_task(tmp_path / "greedy", **words, generation_kwargs={"until": ["\n"]})
    own_task(tmp_path / "drawn", **words, generation_kwargs={"until": ["\n"], "do_sample": True})
    repeats = []
    for name in ("greedy", "drawn"):
        loaded = load_task(EvalTask("own", "acc"), TaskSources(tasks_dir=tmp_path / name))
        repeats.append(loaded.parts[0].config.repeats)
    assert repeats == [1, 3]


def test_examples_that_the_harness_would_leave_out_in_silence_are_refused(tmp_path: Path):
    own_task(tmp_path, num_fewshot=0)
    with pytest.raises(
        ValueError, match="own has num_fewshot=5, but the harness always runs own without examples"
    ):
        load_task(EvalTask("own", "acc", num_fewshot=5), TaskSources(tasks_dir=tmp_path))


def test_a_task_that_nobody_has_is_refused_before_anything_is_loaded(tmp_path: Path):
    own_task(tmp_path)
    check_known(
        [EvalTask("own", "acc"), EvalTask("tiny:word_order", "acc")], TaskSources(None, tmp_path)
    )
    with pytest.raises(ValueError, match=r"lm-eval 0\.4\.\d+ has no task 'mmul'"):
        check_known([EvalTask("mmul", "acc")], TaskSources())


def test_a_primary_metric_that_the_task_lists_not_is_refused_before_anything_is_trained(
    tmp_path: Path,
):
    own_task(tmp_path)
    sources = TaskSources(None, tmp_path)
    for name, listed in (("own", "acc"), ("tiny:held_out", "bits_per_byte"), ("mmlu_dev", "acc")):
        check_known([EvalTask(name, listed)], sources)
        with pytest.raises(
            ValueError, match=rf"{name} has the metrics .*, but not the primary metric 'accuracy'"
        ):
            check_known([EvalTask(name, "accuracy")], sources)


def test_a_package_that_a_task_s_code_stands_on_is_asked_for_before_anything_is_trained(
    tmp_path: Path,
):
    own_task(tmp_path)
    (tmp_path / "results.py").write_text("import no_such_package\ndef score(doc): return {}")
    path = tmp_path / "own.yaml"
    path.write_text(path.read_text() + "process_results: !function results.score\n")
    with pytest.raises(
        ValueError,
        match="own needs the Python package no_such_package, which is not installed; install",
    ):
        check_known([EvalTask("own", "acc")], TaskSources(None, tmp_path))


def test_ifeval_is_refused_before_anything_is_trained_without_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own_task(tmp_path / "tasks")
    task = EvalTask("own_ifeval", "acc")
    path = tmp_path / "tasks" / "own.yaml"
    path.write_text(path.read_text().replace("task: own", "task: own_ifeval"))
    sources = TaskSources(tmp_path / "data", tmp_path / "tasks")
    (tmp_path / "data").mkdir()
    monkeypatch.setitem(sys.modules, "langdetect", ModuleType("langdetect"))
    monkeypatch.setitem(sys.modules, "immutabledict", None)
    sys.modules["langdetect"].__spec__ = ModuleSpec("langdetect", None)
    with pytest.raises(
        ValueError,
        match="own_ifeval needs the Python packages immutabledict, which are not installed; ins",
    ):
        check_known([task], sources)
    monkeypatch.setitem(sys.modules, "immutabledict", sys.modules["langdetect"])
    with pytest.raises(ValueError, match="needs NLTK's punkt_tab; fetch it with `python -m nltk"):
        check_known([task], sources)
    (tmp_path / "data" / "nltk_data" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    check_known([task], sources)


ARC = {
    "id": "1",
    "question": "Which is hot?",
    "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
    "answerKey": "B",
}
HELLASWAG = {
    "ind": 1,
    "activity_label": "Cooking",
    "ctx_a": "A man stands.",
    "ctx_b": "he",
    "ctx": "A man stands. he",
    "endings": ["cooks.", "flies.", "melts.", "rains."],
    "source_id": "a",
    "split": "train",
    "split_type": "indomain",
    "label": "0",
}
WINOGRANDE = {
    "sentence": "The cup did not fit the box as _ was too big.",
    "option1": "the cup",
    "option2": "the box",
    "answer": "1",
}
GSM8K = {"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"}
TRUTHFULQA = {
    "question": "What is the sun?",
    "mc1_targets": {"choices": ["A star", "A lamp"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["A star", "A lamp"], "labels": [1, 0]},
}
IFEVAL = {
    "key": 1,
    "prompt": "Say something without commas.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}
COPIES: dict[str, dict[str, dict[str, Any]]] = {
    "allenai/ai2_arc": {"ARC-Challenge": {"train": ARC, "test": ARC}},
    "Rowan/hellaswag": {"default": {"train": HELLASWAG, "validation": HELLASWAG}},
    "allenai/winogrande": {"winogrande_xl": {"train": WINOGRANDE, "validation": WINOGRANDE}},
    "openai/gsm8k": {"main": {"train": GSM8K, "test": GSM8K}},
    "truthfulqa/truthful_qa": {"multiple_choice": {"validation": TRUTHFULQA}},
    "google/IFEval": {"default": {"train": IFEVAL}},
}
"""Configurations and splits as on the hub, each of one document, thirty times for the examples."""


def numbered(document: dict[str, Any], number: int) -> dict[str, Any]:
    """The document told apart from its copies: none that equals the question is an example."""
    texts = ("question", "activity_label", "sentence", "prompt")
    name = next(text for text in texts if text in document)
    return {**document, name: f"{number}. {document[name]}"}


@pytest.mark.slow
def test_every_benchmark_of_the_paper_runs_from_local_copies_and_has_its_primary_metric(
    tokenizer: Any,
    meter: Meter,
    make_llama: Any,
    tmp_path: Path,
    write_dataset: Callable[..., None],
    configure: Callable[..., Any],
):
    pytest.importorskip("langdetect", reason="IFEval needs lm-eval[ifeval]")
    tasks = configure("eval=paper", "model=qwen25_7b_to_0b5").eval.tasks
    copies = {
        dataset: {
            config: {
                split: [numbered(document, number) for number in range(30)]
                for split, document in splits.items()
            }
            for config, splits in configs.items()
        }
        for dataset, configs in COPIES.items()
    }
    copies["cais/mmlu"] = {
        subject: {"test": rows["test"], "dev": rows["dev"] * 5}
        for subject, rows in mmlu_rows().items()
    }
    copies["SaylorTwift/bbh"] = bbh_rows()
    for dataset, rows in copies.items():
        write_dataset(tmp_path / dataset, rows)
    assert {dataset for task in tasks for dataset in task.datasets} == set(copies)
    (tmp_path / "nltk_data" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    sources = TaskSources(data_dir=tmp_path)
    check_known(tasks, sources)
    scores = evaluate(
        make_llama(vocab_size=1024, max_position_embeddings=16_384),
        tokenizer,
        [(replace(task, limit=1), False) for task in tasks],
        subject="student",
        batch_size=8,
        sources=sources,
        meter=meter,
    )
    for task in tasks:
        (primary,) = [s for s in scores if s.task == task.name and s.metric == task.primary_metric]
        assert primary.higher_is_better and primary.energy_j > 0 and primary.tokens > 0
    assert len({score.energy_j for score in scores}) == len(tasks) == 8


def test_the_tasks_that_ship_lie_in_the_package():
    assert (OWN_TASKS_DIR / "mmlu_dev.yaml").is_file()
