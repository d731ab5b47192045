"""lighteval in a process of its own: refusals, and whole runs in an environment made for them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.config.evaluation import EvalTask, Lighteval
from kdwatts.evaluation import lighteval
from kdwatts.evaluation.lighteval import installed_version, mean_over_tasks
from kdwatts.evaluation.tasks.mmlu_dev import read_questions
from kdwatts.records.files import read_jsonl
from kdwatts.runtime.paths import TINY_DIR
from kdwatts.telemetry.meter import Meter

ROOT = Path(__file__).parents[2]
DATASET = "local/mmlu_dev"
SUBJECTS = ("global_facts", "miscellaneous")

TASKS_FILE = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


def prompt(line, task_name=None):
    letters = [f"{letter}. {choice}" for letter, choice in zip("ABCD", line["choices"])]
    return Doc(
        task_name=task_name,
        query="\\n".join([line["question"], *letters, "Answer:"]),
        choices=[" A", " B", " C", " D"],
        gold_index=line["answer"],
    )


def task(name, subset, metric):
    return LightevalTaskConfig(
        name=name, prompt_function=prompt, hf_repo="local/mmlu_dev", hf_subset=subset,
        hf_avail_splits=["test"], evaluation_splits=["test"], few_shots_split=None,
        generation_size=4, metrics=[metric], stop_sequence=["\\n"],
    )


TASKS_TABLE = [
    task("dev:global_facts", "global_facts", Metrics.loglikelihood_acc),
    task("dev:miscellaneous", "miscellaneous", Metrics.loglikelihood_acc),
    task("written", "global_facts", Metrics.exact_match),
]
"""


def test_an_interpreter_that_cannot_be_run_is_refused():
    with pytest.raises(ValueError, match=r"eval\.lighteval\.python=/nowhere/python cannot be run"):
        installed_version("/nowhere/python")


def test_an_interpreter_without_lighteval_is_refused_with_what_to_install(tmp_path: Path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(ValueError, match=r"has no lighteval; make a virtual environment with pip"):
        installed_version(str(python))


def test_the_plan_of_a_run_refuses_it_too(configure: Callable[..., Any]):
    from kdwatts.stages.evaluate import settings

    config = configure(
        "eval=lighteval", "model=qwen25_7b_to_0b5", "eval.lighteval.python=/nowhere/python"
    )
    with pytest.raises(ValueError, match="cannot be run"):
        settings(config, "student")


def test_the_mean_of_two_tasks_has_half_the_root_of_their_squared_errors():
    """Values 0.2 and 0.6, errors 0.03 and 0.04: 0.4, and sqrt(0.0009 + 0.0016) / 2 = 0.025."""

    def one(value: float, stderr: float | None) -> dict[str, Any]:
        scored = {"value": value, "stderr": stderr, "higher_is_better": True}
        return {"metrics": {"acc": scored}, "num_samples": 10}

    mean = mean_over_tasks({"a": one(0.2, 0.03), "b": one(0.6, 0.04)})
    assert mean["num_samples"] == 20
    assert math.isclose(mean["metrics"]["acc"]["value"], 0.4)
    assert math.isclose(mean["metrics"]["acc"]["stderr"], 0.025)
    unsure = mean_over_tasks({"a": one(0.2, None), "b": one(0.6, 0.04)})
    assert unsure["metrics"]["acc"]["stderr"] is None


def test_a_child_that_dies_is_told_with_its_last_words(tmp_path: Path):
    """This interpreter has no lighteval, so that importing it is the first thing to fail."""
    served = lighteval.Served(str(TINY_DIR / "teacher"), None, "t", "float32", 1, None)
    with (
        pytest.raises(RuntimeError, match=r"lighteval failed at start \(ModuleNotFoundError\): "),
        lighteval.running_child(served, Lighteval(), None) as ask,
    ):
        ask({"do": "start"})


@pytest.fixture(scope="session")
def python() -> str:
    """An interpreter with lighteval: KDWATTS_TEST_LIGHTEVAL, or one made below build/ and kept."""
    given = os.environ.get("KDWATTS_TEST_LIGHTEVAL")
    if given:
        return given
    folder = ROOT / "build" / "lighteval"
    interpreter = folder / "bin" / "python"
    if interpreter.is_file():
        try:
            installed_version(str(interpreter))
            return str(interpreter)
        except ValueError:
            pass  # Left half made.
    venv.create(folder, with_pip=True, clear=True)
    install = [str(interpreter), "-m", "pip", "install", "--quiet"]
    install += ["--constraint", str(ROOT / "constraints.txt")]
    for packages in (["torch"], ["lighteval==0.13.0", "xxhash<4"]):
        done = subprocess.run([*install, *packages], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"lighteval cannot be installed here: {done.stderr.strip()[-300:]}")
    return str(interpreter)


@pytest.fixture
def own_tasks(tmp_path: Path, write_dataset: Callable[..., None]) -> tuple[Path, Path]:
    """A file of tasks, and the folder of their data: real questions of two subjects of MMLU."""
    rows: dict[str, dict[str, Any]] = {subject: {"test": []} for subject in SUBJECTS}
    for question in read_questions():
        subject = question["subject"].replace(" ", "_")
        if subject in rows:
            rows[subject]["test"].append(question)
    write_dataset(tmp_path / "data" / DATASET, rows)
    (tmp_path / "own.py").write_text(TASKS_FILE)
    return tmp_path / "own.py", tmp_path / "data"


def task(name: str, metric: str) -> EvalTask:
    return EvalTask(name, metric, harness="lighteval", chance=0.25, datasets=[DATASET])


@pytest.mark.slow
def test_lighteval_gives_the_scores_that_the_models_own_logits_give(
    python: str, own_tasks: tuple[Path, Path], meter: Meter, configure: Callable[..., Any]
):
    """And is metered: the tokens are those of every choice behind its prompt, cut to 128."""
    import torch

    from kdwatts.models.load import load_model, load_tokenizer

    tasks_file, data_dir = own_tasks
    served = lighteval.Served(
        str(TINY_DIR / "teacher"), None, str(TINY_DIR / "tokenizer"), "float32", 8, None
    )
    scores = lighteval.evaluate(
        served,
        [(task("dev", "acc"), False), (task("written", "em"), False)],
        subject="teacher",
        settings=Lighteval(python, str(tasks_file)),
        data_dir=data_dir,
        meter=meter,
    )
    model = load_model(configure().model.teacher, dtype=torch.float32)
    tokenizer = load_tokenizer("tiny:tokenizer")
    right: dict[str, list[bool]] = {subject: [] for subject in SUBJECTS}
    tokens = 0
    for question in read_questions():
        subject = question["subject"].replace(" ", "_")
        if subject not in right:
            continue
        letters = [f"{a}. {c}" for a, c in zip("ABCD", question["choices"], strict=True)]
        prompt = "\n".join([question["question"], *letters, "Answer:"])
        sums = []
        for letter in "ABCD":
            context = tokenizer(prompt)["input_ids"]
            ids = tokenizer(f"{prompt} {letter}")["input_ids"][-128:]
            tokens += len(ids)
            log_p_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            num = len(tokenizer(f"{prompt} {letter}")["input_ids"]) - len(context)
            places = range(len(ids) - num, len(ids))
            sums.append(sum(log_p_TV[place - 1, ids[place]].item() for place in places))
        right[subject].append(sums.index(max(sums)) == question["answer"])
    by_task = {(score.task, score.metric): score for score in scores}
    for subject, answers in right.items():
        score = by_task[f"dev:{subject}|0", "acc"]
        assert score.value == pytest.approx(sum(answers) / len(answers))
        assert score.num_samples == len(answers) == 5
    group = by_task["dev", "acc"]
    assert group.value == pytest.approx(sum(map(sum, right.values())) / 10)
    assert (group.tokens, group.num_samples) == (tokens, 10)
    assert (group.harness, group.harness_version) == ("lighteval", "0.13.0")
    assert group.energy_j and group.energy_quality == "estimated" and group.duration_s
    written = by_task["written", "em"]
    assert written.benchmark == "written" and written.energy_j != group.energy_j
    assert written.tokens and 0 < written.tokens <= 5 * (128 + 4)


@pytest.mark.slow
def test_a_run_scores_teacher_and_student_by_lighteval_beside_the_other_harness(
    python: str, own_tasks: tuple[Path, Path], tmp_path: Path
):
    tasks_file, data_dir = own_tasks
    own = f"harness: lighteval, chance: 0.25, datasets: [{DATASET}]"
    overrides = (
        *("training=smoke", "gpu=cpu", f"store_dir={tmp_path}/store", "eval=mmlu_dev"),
        f"eval.lighteval.python={python}",
        f"eval.lighteval.tasks_file={tasks_file}",
        f"eval.data_dir={data_dir}",
        f"eval.tasks=[{{name: dev, primary_metric: acc, {own}}}, "
        "{name: mmlu_dev, primary_metric: acc, chance: 0.25, limit: 8}]",
    )
    found = {}
    for seed in (0, 1):
        run_dir = tmp_path / f"seed_{seed}"
        run_dir.mkdir()
        run_in(run_dir, resolve_gpu(compose([*overrides, f"training.seed={seed}"]), []))
        rows = list(read_jsonl(run_dir / "stages.jsonl"))
        found[seed] = json.loads((run_dir / "eval.json").read_text())
        harnesses = {(s["subject"], s["harness"], s["benchmark"]) for s in found[seed]}
        assert harnesses == {
            (subject, *harness)
            for subject in ("student", "teacher")
            for harness in (("lighteval", "dev"), ("lm-evaluation-harness", "mmlu_dev"))
        }
        windows = {row["window"]: row for row in rows}
        window = windows["run/evaluate_student/dev"]
        score = next(s for s in found[seed] if s["task"] == "dev" and s["subject"] == "student")
        assert score["energy_j"] == window["energy_j"]["cpu"]
        assert score["tokens"] == window["tokens"] > 0
        assert windows["run/evaluate_teacher"]["outcome"] == ("reused" if seed else "done")
        metrics = json.loads((run_dir / "metrics.json").read_text())
        assert metrics["evaluation_energy_j"] > score["energy_j"]


@pytest.mark.slow
def test_what_lighteval_cannot_do_is_refused_in_one_sentence(
    python: str, own_tasks: tuple[Path, Path], meter: Meter
):
    tasks_file, data_dir = own_tasks
    served = lighteval.Served(
        str(TINY_DIR / "teacher"), None, str(TINY_DIR / "tokenizer"), "float32", 8, None
    )
    unnamed = EvalTask("dev", "acc", harness="lighteval")
    for wrong, words in (
        (
            task("nothing", "acc"),
            r"lighteval 0\.13\.0 has no task 'nothing'; `lighteval tasks list`",
        ),
        (unnamed, "dev reads the dataset local/mmlu_dev, but its `datasets` do not name it"),
        (
            task("dev", "f1"),
            r"dev of lighteval has the metrics acc, but not the primary metric 'f1'",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            lighteval.evaluate(
                served,
                [(wrong, False)],
                subject="teacher",
                settings=Lighteval(python, str(tasks_file)),
                data_dir=data_dir,
                meter=meter,
            )


def test_this_interpreter_is_the_default(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        return subprocess.CompletedProcess(command, 0, "0.13.0\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert installed_version(None) == "0.13.0"
    assert asked == [sys.executable]
