"""Tasks of lm-evaluation-harness: found by name, read from local copies, and run once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.aggregation import guard_aggregations
from kdwatts.evaluation.own_tasks import inside
from kdwatts.runtime.fingerprint import fingerprint_tree
from kdwatts.runtime.paths import TINY_DIR

log = logging.getLogger(__name__)

TINY_PREFIX = "tiny:"
OWN_TASKS_DIR = Path(__file__).parent / "tasks"
"""Tasks that ship with the package, on data that ships with the harness."""

FORMATS = ("arrow", "csv", "json", "pandas", "parquet", "text", "webdataset", "xml")
"""Values of `dataset_path` that name a format of files instead of a dataset."""


_NO_HARNESS = (
    "eval.tasks need lm-eval, which is not installed; install it with pip install "
    "'lm-eval>=0.4.13', choose eval=none, or stop earlier with until=distill"
)


@dataclass(frozen=True)
class TaskSources:
    """Where tasks and their data are looked for."""

    data_dir: Path | None = None
    """Holds a folder OWNER/NAME for every dataset. None reads from the hub."""
    tasks_dir: Path | None = None
    """Your own YAML tasks. They come before the harness's tasks of the same name."""


def harness(module: str) -> Any:
    """A module of the harness. It takes seconds to import, and its decorators hide its types.

    Raises ValueError where the harness is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise ValueError(_NO_HARNESS) from None


def harness_version() -> str:
    """The version of lm-eval. Raises ValueError where it is not installed."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise ValueError(_NO_HARNESS) from None


def task_files(task: str) -> list[Path]:
    """The files that define a task of the tiny world. None of any other task."""
    if not task.startswith(TINY_PREFIX):
        return []
    stem = TINY_DIR / "tasks" / task.removeprefix(TINY_PREFIX)
    files = [stem.with_suffix(".yaml"), stem.with_suffix(".jsonl")]
    if not all(path.is_file() for path in files):
        shipped = ", ".join(sorted(f"tiny:{p.stem}" for p in (TINY_DIR / "tasks").glob("*.yaml")))
        raise ValueError(f"eval.tasks: {task} does not exist; the package has {shipped}")
    return files


def is_shipped(task: str) -> bool:
    """Whether the task's questions come with the package or the harness: nothing is fetched."""
    return task.startswith(TINY_PREFIX) or (OWN_TASKS_DIR / f"{task}.yaml").is_file()


def dataset_dir(data_dir: Path, dataset: str, task: str) -> Path:
    """The folder of a dataset's local copy.

    Without one it raises ValueError, which says how to get it.
    """
    directory = data_dir / dataset
    if not directory.is_dir():
        raise ValueError(
            f"eval.data_dir={data_dir}: task {task} reads {dataset}, but there is no folder "
            f"{directory}; fetch it with `hf download {dataset} --repo-type dataset --local-dir "
            f"{directory}`, or set eval.data_dir=null"
        )
    return directory


@dataclass(frozen=True)
class LoadedTask:
    """One benchmark, with its data."""

    parts: list[Any]
    """The argument of `simple_evaluate`: a task, a group, or all tasks of a tag."""
    leaves: list[Any]
    """The tasks alone, also those of groups."""
    manager: Any
    """The index they are from. `simple_evaluate` would take seconds to make its own."""


def load_task(task: EvalTask, sources: TaskSources) -> LoadedTask:
    """The task with this name, or the tasks of the group or tag with this name.

    With `sources.data_dir`, the task and its children read their datasets from the local copies.
    Where nothing is sampled, `repeats` is 1: the same answer again would cost joules for nothing.

    Raises ValueError for a task that is unknown, lacks data or packages, or runs with another
    number of examples.
    """
    files = task_files(task.name)
    if files:
        request: Any = yaml.safe_load(files[0].read_bytes())
        request["dataset_kwargs"] = {"data_files": {"test": str(files[1])}}
        manager = _manager(False, None, None)
    else:
        request, manager = task.name, manager_with(task, sources)
    try:
        with _local_datasets(task, sources):
            loaded = manager.load([request])
    except ModuleNotFoundError as error:
        raise ValueError(lacks_package(task, error.name)) from None
    for leaf in loaded["tasks"].values():
        _run_once(leaf)
        _check_fewshot(leaf, task)
        guard_aggregations(leaf)
    children = {name for names in loaded["group_map"].values() for name in names}
    parts = [
        one
        for name, one in [*loaded["groups"].items(), *loaded["tasks"].items()]
        if name not in children
    ]
    return LoadedTask(parts, list(loaded["tasks"].values()), manager)


def lacks_package(task: EvalTask, name: str | None) -> str:
    """One sentence that a task needs a package which is not installed."""
    return (
        f"eval.tasks: {task.name} needs the Python package {name}, which is not installed; install "
        "it, or leave the task out"
    )


@cache
def _manager(include_defaults: bool, tasks_dir: Path | None, content: str | None) -> Any:
    """The harness's index of tasks, for a `content` of the folder; to build its own takes seconds.

    A sweep is one process, between whose runs a task may change.
    """
    del content
    folders = [str(path) for path in (OWN_TASKS_DIR, tasks_dir) if path]
    return harness("lm_eval.tasks").TaskManager(
        include_path=folders, include_defaults=include_defaults
    )


def manager_with(task: EvalTask, sources: TaskSources) -> Any:
    """The smallest index of tasks that has this task."""
    content = fingerprint_tree(sources.tasks_dir) if sources.tasks_dir else None
    for include_defaults in (False, True):
        manager = _manager(include_defaults, sources.tasks_dir, content)
        if task.name in manager.all_tasks:
            return manager
    place = f" and {sources.tasks_dir} none" if sources.tasks_dir else ""
    raise ValueError(
        f"eval.tasks: lm-eval {harness_version()} has no task {task.name!r}{place}; `lm-eval ls "
        "tasks` lists the names"
    )


@contextmanager
def _local_datasets(task: EvalTask, sources: TaskSources) -> Iterator[None]:
    """Has every dataset that is loaded meanwhile come from `sources`.

    The harness names datasets in the files of the tasks, of which a group has many, and always
    loads them by this one function.
    """
    datasets = harness("datasets")
    load, key_of = datasets.load_dataset, cache(fingerprint_tree)

    def load_cached(path: str, name: str | None, folder: Path, **options: Any) -> Any:
        """The library's cache knows files by place and time, and a folder by what its README
        lists: it would give what others of that name once held. So bytes name the cache."""
        cache_dir = Path(datasets.config.HF_DATASETS_CACHE) / "kdwatts" / key_of(folder)
        return load(path, name, cache_dir=str(cache_dir), **options)

    def load_local(path: str, name: str | None = None, **options: Any) -> Any:
        own = sources.tasks_dir
        if task_files(task.name):
            return _in_memory(options["data_files"])
        if path in FORMATS:
            if own is None:
                return load(path, name, **options)
            for option in ("data_files", "data_dir"):
                if option in options:
                    options[option] = inside(own, options[option], task.name)
            return load_cached(path, name, own, **options)
        is_copied = sources.data_dir is not None and path in task.datasets
        if own and not is_copied and (own / path).is_dir():
            return load_cached(inside(own, path, task.name), name, own, **options)
        if not is_copied and Path(path).is_dir():
            raise ValueError(
                f"eval.tasks: {task.name} reads the folder {Path(path).absolute()}, but a change "
                "in it would not change the key; put it into eval.tasks_dir, or put it below "
                "eval.data_dir and add its name to the task's `datasets`"
            )
        if sources.data_dir is None:
            return load(path, name, **options)
        if path not in task.datasets:
            raise ValueError(
                f"eval.tasks: {task.name} reads the dataset {path}, but its `datasets` do not name "
                f"it, so a change in eval.data_dir would not change the key; add {path} to them"
            )
        directory = dataset_dir(sources.data_dir, path, task.name)
        whole = directory
        if name and (directory / name).is_dir() and not (directory / "README.md").is_file():
            directory, name = directory / name, None
        try:
            return load_cached(str(directory), name, whole, **options)
        except ValueError as error:
            raise ValueError(
                f"eval.data_dir: {directory} cannot be read as {name or 'a dataset'} for "
                f"{task.name} ({' '.join(str(error).split())}); copy {path} again"
            ) from error

    datasets.load_dataset = load_local
    try:
        yield
    finally:
        datasets.load_dataset = load


def _in_memory(files: Mapping[str, str]) -> Any:
    """The splits of a task that ships, without a cache: a node may have none to write to."""
    datasets = harness("datasets")
    rows = {
        split: [json.loads(line) for line in Path(name).read_bytes().strip().split(b"\n")]
        for split, name in files.items()
    }
    return datasets.DatasetDict({s: datasets.Dataset.from_list(rows[s]) for s in rows})


def _run_once(leaf: Any) -> None:
    """No repeats where nothing is drawn at random."""
    samples = (leaf.config.generation_kwargs or {}).get("do_sample", False)
    if leaf.config.repeats > 1 and not samples:
        log.warning(
            "evaluate: %s asks for %d repeats but draws nothing at random, so it is run once",
            leaf.config.task,
            leaf.config.repeats,
        )
        leaf.set_config(key="repeats", value=1)


def _check_fewshot(leaf: Any, task: EvalTask) -> None:
    """Raise ValueError where the harness would silently keep to no examples."""
    if leaf.config.num_fewshot == 0 and task.num_fewshot:
        raise ValueError(
            f"eval.tasks: {task.name} has num_fewshot={task.num_fewshot}, but the harness always "
            f"runs {leaf.config.task} without examples; set it to 0"
        )
