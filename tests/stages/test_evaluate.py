"""What keys an evaluation, and what is refused before a student is trained for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.evaluation import lm_tasks
from kdwatts.records.files import read_json
from kdwatts.runtime.paths import TINY_DIR
from kdwatts.stages.evaluate import check, settings
from kdwatts.stages.graph import plan

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
GSM8K = (
    "eval.tasks=[{name: gsm8k, primary_metric: 'exact_match,strict-match', num_fewshot: 5, "
    "datasets: [openai/gsm8k]}]"
)


@pytest.fixture
def tokenizers(tmp_path: Path) -> Callable[[str, str], Path]:
    """Makes a copy of the tiny teacher's folder, or of its tokenizer, with a chat template."""

    def make(name: str, template: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(TINY_DIR / name, folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
        return folder

    return make


def test_the_bytes_of_a_local_dataset_are_part_of_the_key(
    configure: Callable[..., Any], tmp_path: Path
):
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    config = configure("eval=mmlu_dev", GSM8K, f"eval.data_dir={tmp_path}")
    found = []
    for text in ("one", "two", "one"):
        (folder / "test.jsonl").write_text(text)
        found.append(settings(config, "student"))
    assert found[0] == found[2] != found[1]


def test_the_sentence_ends_that_ifeval_reads_are_part_of_its_key_and_of_no_other(
    configure: Callable[..., Any], tmp_path: Path
):
    (tmp_path / "google" / "IFEval").mkdir(parents=True)
    (tmp_path / "google" / "IFEval" / "test.jsonl").write_text("{}")
    ifeval = "eval.tasks=[{name: ifeval, primary_metric: x, datasets: [google/IFEval]}]"
    configs = [
        configure("eval=mmlu_dev", *asked, f"eval.data_dir={tmp_path}") for asked in ([], [ifeval])
    ]
    none = [settings(config, "student") for config in configs]
    folder = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab"
    folder.mkdir(parents=True)
    (folder / "abbrev.txt").write_text("Mr.")
    one = [settings(config, "student") for config in configs]
    (folder / "abbrev.txt").write_text("Mrs.")
    other = [settings(config, "student") for config in configs]
    assert none[0] == one[0] == other[0]
    assert none[1] != one[1] != other[1]


def test_where_a_dataset_lies_is_not_part_of_the_key(configure: Callable[..., Any], tmp_path: Path):
    keys = []
    for name in ("here", "there"):
        folder = tmp_path / name / "openai" / "gsm8k"
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("{}")
        config = configure("eval=mmlu_dev", GSM8K, f"eval.data_dir={tmp_path / name}")
        keys.append(settings(config, "student"))
    assert keys[0] == keys[1]


def test_a_dataset_that_is_missing_is_told_by_the_plan(
    configure: Callable[..., Any], tmp_path: Path
):
    with pytest.raises(ValueError, match="task mmlu reads cais/mmlu, but there is no folder"):
        settings(
            configure("eval=quick", "model=qwen25_7b_to_0b5", f"eval.data_dir={tmp_path}"),
            "student",
        )


def test_ones_own_tasks_are_part_of_the_key_with_all_that_lies_beside_them(
    configure: Callable[..., Any], tmp_path: Path
):
    config = configure("eval=mmlu_dev", f"eval.tasks_dir={tmp_path / 'tasks'}")
    with pytest.raises(ValueError, match="tasks: there is no such folder; give one that holds"):
        settings(config, "student")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text("task: own")
    before = settings(config, "student")
    (tmp_path / "tasks" / "questions.jsonl").write_text("{}")
    assert settings(config, "student") != before


def test_a_stage_before_the_evaluation_asks_for_no_harness(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """As where lm-eval is not installed."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lm_tasks, "version", missing)
    names = [planned.name for planned in plan(configure("until=distill", "gpu=cpu"), [])]
    assert names[-1] == "distill"
    with pytest.raises(ValueError, match=r"need lm-eval, which is not installed; .*eval=none"):
        plan(configure("until=evaluate", "gpu=cpu"), [])


def test_a_stage_that_is_not_asked_for_is_not_in_the_plan(configure: Callable[..., Any]):
    found = {
        until: {planned.stage for planned in plan(configure(f"until={until}", "gpu=cpu"), [])}
        for until in ("distill", "evaluate", "inference", "plan")
    }
    assert found["evaluate"] - found["distill"] == {"evaluate"}
    assert found["inference"] - found["evaluate"] == {"inference"}
    assert found["plan"] == found["inference"]


def test_what_a_task_of_ones_own_names_outside_of_its_folder_is_told_by_the_plan(
    configure: Callable[..., Any], tmp_path: Path
):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "common.yaml").write_text("test_split: test")
    (tmp_path / "tasks" / "own.yaml").write_text("task: own\ninclude: ../common.yaml")
    config = configure("eval=mmlu_dev", f"eval.tasks_dir={tmp_path / 'tasks'}")
    with pytest.raises(ValueError, match=r"own\.yaml names \.\./common\.yaml, which lies outside"):
        settings(config, "student")


def test_a_cache_that_cannot_be_written_is_told_before_training_where_a_task_needs_one(
    configure: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import datasets

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    check(configure("eval=offline"))
    asked = "eval.tasks=[{name: gsm8k, primary_metric: x}]"
    with pytest.raises(
        ValueError, match=r"HF_HOME=.*: gsm8k of eval\.tasks are read through the c"
    ):
        check(configure("eval=mmlu_dev", asked))


def test_a_template_for_one_task_is_part_of_its_key_and_the_switch_means_the_same(
    configure: Callable[..., Any],
):
    switched = settings(configure("eval=mmlu_dev", "eval.apply_chat_template=true"), "student")
    own = settings(configure("eval=mmlu_dev", "+eval.tasks.0.apply_chat_template=true"), "student")
    assert switched == own != settings(configure("eval=mmlu_dev"), "student")


def test_a_teacher_that_would_be_asked_otherwise_is_refused(
    configure: Callable[..., Any], tokenizers: Callable[[str, str], Path]
):
    paths = (
        f"model.teacher.path={tokenizers('teacher', TURNS.replace('<assistant>', 'ASSISTANT:'))}",
        f"model.tokenizer={tokenizers('tokenizer', TURNS)}",
    )
    check(configure("eval=mmlu_dev", *paths))
    with pytest.raises(ValueError, match=r"mmlu_dev would be asked in different words.*ASSISTANT:"):
        check(configure("eval=mmlu_dev", *paths, "eval.apply_chat_template=true"))


def test_what_the_evaluation_cannot_do_is_refused_before_a_student_is_trained(tmp_path: Path):
    tree = compose(
        [
            *("gpu=cpu", "training=smoke", f"store_dir={tmp_path}/store", "eval=mmlu_dev"),
            "eval.tasks.0.name=mmul_dev",
        ]
    )
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="has no task 'mmul_dev'"):
        run_in(tmp_path / "run", resolve_gpu(tree, []))
    assert read_json(tmp_path / "run" / "status.json")["stage"] == "configure"
    assert not list((tmp_path / "store").iterdir())


def test_a_benchmark_that_two_tasks_would_count_twice_is_refused(configure: Callable[..., Any]):
    with pytest.raises(ValueError, match=r"eval\.tasks has mmlu_dev more than once"):
        configure(
            "eval=mmlu_dev",
            "eval.tasks=[{name: mmlu_dev, primary_metric: acc}, "
            "{name: mmlu_dev, primary_metric: acc, harness: lighteval}]",
        )


def test_only_what_a_template_renders_has_a_key_that_says_the_day(configure: Callable[..., Any]):
    plain = settings(configure("eval=mmlu_dev"), "student")
    rendered = settings(configure("eval=mmlu_dev", "eval.apply_chat_template=true"), "student")
    assert (plain.get("clock"), rendered["clock"]) == (None, "26 Jul 2024")


def test_a_folder_of_data_sets_that_is_not_there_is_refused_though_no_task_reads_it(
    configure: Callable[..., Any], tmp_path: Path
):
    config = configure(f"eval.data_dir={tmp_path}/none")
    with pytest.raises(ValueError, match=r"^eval\.data_dir=.*/none: there is no such folder; give"):
        settings(config, "student")
