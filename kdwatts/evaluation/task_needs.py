"""What a task needs besides a model, checked before a student is trained for it."""

from __future__ import annotations

import os
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.lm_tasks import (
    TaskSources,
    harness,
    is_shipped,
    lacks_package,
    manager_with,
    task_files,
)
from kdwatts.evaluation.own_tasks import check_data_files

IFEVAL_PACKAGES = ("langdetect", "immutabledict", "nltk")


def check_known(tasks: list[EvalTask], sources: TaskSources) -> None:
    """Raise ValueError for a task that the harness does not have or cannot run here."""
    for task in tasks:
        files = task_files(task.name)
        if files:
            _check_primary(task, yaml.safe_load(files[0].read_bytes()))
            continue
        manager = manager_with(task, sources)
        if "ifeval" in task.name:
            _check_ifeval(task, sources)
        definition = _definition(task, manager)
        _check_primary(task, definition)
        place, folder = manager.task_index[task.name].yaml_path, sources.tasks_dir
        if folder and place and Path(place).resolve().is_relative_to(folder.resolve()):
            check_data_files(folder, task.name, definition)


def _definition(task: EvalTask, manager: Any) -> dict[str, Any]:
    """What a task's file says, its functions imported; nothing for a tag, or a task of Python's.

    Raises ValueError where a package that a function stands on is missing.
    """
    path = manager.task_index[task.name].yaml_path
    if path is None:
        return {}
    try:
        return harness("lm_eval.tasks._yaml_loader").load_yaml(path)
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise ValueError(lacks_package(task, cause.name)) from None


def _check_primary(task: EvalTask, definition: dict[str, Any]) -> None:
    """Raise ValueError for a primary metric that a task's own list of metrics does not have.

    What a group gathers, and what a function makes of answers, is known only when it has run.
    """
    listed = definition.get("metric_list")
    if "group" in definition or definition.get("process_results") or not listed:
        return
    names = [one.get("metric") for one in listed]
    if (
        all(isinstance(name, str) for name in names)
        and task.primary_metric.split(",")[0] not in names
    ):
        raise ValueError(
            f"eval.tasks: {task.name} has the metrics {', '.join(names)}, but not the primary "
            f"metric {task.primary_metric!r}; correct primary_metric in conf/eval"
        )


def _check_ifeval(task: EvalTask, sources: TaskSources) -> None:
    """Raise ValueError without what IFEval checks answers by, of which the harness fetches some.

    Its list of sentence ends is looked for in DATA_DIR/nltk_data, among the usual places.
    """
    missing = [name for name in IFEVAL_PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"eval.tasks: {task.name} needs the Python packages {', '.join(missing)}, which are "
            "not installed; install them, such as with pip install 'kdwatts[benchmarks]', or leave "
            "the task out"
        )
    if sources.data_dir is None:
        return
    folder = sources.data_dir / "nltk_data"
    nltk = harness("nltk")
    if str(folder) not in nltk.data.path:
        nltk.data.path.insert(0, str(folder))
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise ValueError(
            f"eval.data_dir={sources.data_dir}: {task.name} needs NLTK's punkt_tab; fetch it with "
            f"`python -m nltk.downloader -d {folder} punkt_tab`"
        ) from None


def check_cache(tasks: list[EvalTask], data_dir: Path | None) -> None:
    """Raise ValueError where tasks are read through a cache of data sets that cannot be written.

    Data that comes with the package is read without this cache. lighteval's process keeps local
    copies in a cache of its own.
    """
    read = [
        task.name
        for task in tasks
        if not is_shipped(task.name) and (task.harness == "lm_eval" or data_dir is None)
    ]
    if not read:
        return
    config = harness("datasets").config
    folder = Path(config.HF_DATASETS_CACHE)
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"HF_HOME={os.environ.get('HF_HOME', '~/.cache/huggingface')}: {', '.join(read)} of "
            f"eval.tasks are read through the cache {folder}, which cannot be written "
            f"({error.strerror}); set HF_HOME, or HF_DATASETS_CACHE, to a folder that you can "
            "write to"
        ) from None
