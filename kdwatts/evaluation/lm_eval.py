"""lm-evaluation-harness through its Python API, its results as our records."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from tqdm import tqdm

from kdwatts.metrics import total_energy
from kdwatts.paths import TINY_DIR
from kdwatts.records import Score
from kdwatts.schema import EvalTask
from kdwatts.telemetry.meter import Meter

HARNESS = "lm-evaluation-harness"
TINY_PREFIX = "tiny:"
BOOTSTRAP_ITERATIONS = 1000
"""For metrics without a closed form; with 0 the harness gives no standard error at all."""


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[EvalTask],
    *,
    subject: str,
    batch_size: int,
    apply_chat_template: bool,
    meter: Meter,
) -> list[Score]:
    """Every metric of every task for one model; each task is a metered window of its own.

    Raises ValueError for a task that the harness does not know, or whose primary metric it lacks.
    """
    with _quiet_libraries():
        models = _harness("lm_eval.models.huggingface")
        served = models.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        scores: list[Score] = []
        for task in tasks:
            with meter.window(display_name(task.name)) as window:
                results = _run(served, task, apply_chat_template=apply_chat_template)
            assert window.row
            row = window.row
            energy = total_energy(row.energy_j, row.quality, row.uncertainty_j)
            scores.extend(_scores(results, task, subject, energy.energy_j))
    return scores


def _harness(module: str) -> Any:
    """A module of the harness: seconds to import, and its decorators hide its types."""
    return import_module(module)


def display_name(task: str) -> str:
    """The task's name in records and windows: `tiny:word_order` is `tiny_word_order`."""
    return task.replace(":", "_")


def task_files(task: str) -> list[Path]:
    """The files that define a shipped task; none for the harness's own."""
    if not task.startswith(TINY_PREFIX):
        return []
    stem = TINY_DIR / "tasks" / task.removeprefix(TINY_PREFIX)
    files = [stem.with_suffix(".yaml"), stem.with_suffix(".jsonl")]
    if not all(path.is_file() for path in files):
        shipped = ", ".join(sorted(f"tiny:{p.stem}" for p in (TINY_DIR / "tasks").glob("*.yaml")))
        raise ValueError(f"eval.tasks: there is no {task}; the package ships {shipped}")
    return files


def fetcher() -> Callable[[str], None]:
    """A function that brings the data of one of the harness's own tasks to this disk.

    It lies where running the task looks for it, in the cache of `datasets`. The function raises
    ValueError for a task that the harness does not know; making it takes seconds.
    """
    tasks = _harness("lm_eval.tasks")
    with _quiet_libraries():
        manager = tasks.TaskManager()

    def fetch(name: str) -> None:
        _check_known(name, manager)
        with _quiet_libraries():
            tasks.get_task_dict([name], manager)

    return fetch


def _check_known(name: str, manager: Any) -> None:
    if name not in manager.all_tasks:
        raise ValueError(
            f"eval.tasks: lm-eval {version('lm_eval')} has no task {name!r}; see its list of tasks"
        )


def _run(served: Any, task: EvalTask, *, apply_chat_template: bool) -> dict[str, Any]:
    shipped = task_files(task.name)
    manager = _harness("lm_eval.tasks").TaskManager(include_defaults=not shipped)
    request: str | dict[str, Any] = task.name
    if shipped:
        definition, data = shipped
        request = yaml.safe_load(definition.read_text())
        assert isinstance(request, dict)
        request["dataset_kwargs"] = {"data_files": {"test": str(data)}}
    else:
        _check_known(task.name, manager)
    results = _harness("lm_eval").simple_evaluate(
        model=served,
        tasks=[request],
        num_fewshot=task.num_fewshot,
        limit=task.limit,
        bootstrap_iters=BOOTSTRAP_ITERATIONS,
        log_samples=bool(shipped),
        apply_chat_template=apply_chat_template,
        task_manager=manager,
        random_seed=0,
        numpy_random_seed=0,
        torch_random_seed=0,
        fewshot_random_seed=0,
    )
    assert results
    return results


def _scores(
    results: dict[str, Any], task: EvalTask, subject: str, energy_j: float | None
) -> list[Score]:
    scores = []
    for name, metrics in results["results"].items():
        counts = results["n-samples"].get(name)
        samples = results.get("samples", {}).get(name, [])
        for key, value in metrics.items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{metric}_stderr,{filter_name}")
            if metric == "bits_per_byte" and samples:
                stderr = bits_per_byte_stderr(samples)
            better = results["higher_is_better"].get(name, {}).get(metric)
            scores.append(
                Score(
                    subject=subject,
                    harness=HARNESS,
                    harness_version=version("lm_eval"),
                    task=name,
                    metric=metric if filter_name == "none" else key,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, int | float) else None,
                    higher_is_better=metric not in LOWER_IS_BETTER if better is None else better,
                    num_fewshot=task.num_fewshot,
                    num_samples=counts["effective"] if counts else _num_samples(results),
                    energy_j=energy_j,
                )
            )
    if not any(
        s.task == display_name(task.name) and s.metric == task.primary_metric for s in scores
    ):
        found = ", ".join(sorted({s.metric for s in scores})) or "no metric"
        raise ValueError(
            f"eval.tasks: {task.name} gives {found}, not the primary metric "
            f"{task.primary_metric!r}; correct primary_metric in conf/eval"
        )
    return scores


LOWER_IS_BETTER = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")


def _num_samples(results: dict[str, Any]) -> int:
    return sum(counts["effective"] for counts in results["n-samples"].values())


def bits_per_byte_stderr(samples: Sequence[dict[str, Any]]) -> float | None:
    """Standard error of total bits over total bytes, documents being the sampling unit.

    The ratio estimator's: sqrt(sum (b_i - R n_i)^2 / (m (m - 1))) over the mean of n, for bits b
    and bytes n of m documents (Cochran 1977, Sampling Techniques, section 2.11). None below two.
    """
    pairs = [(-loglikelihood / math.log(2), size) for loglikelihood, size in map(_rolling, samples)]
    count = len(pairs)
    if count < 2:
        return None
    total_bytes = sum(size for _, size in pairs)
    ratio = sum(bits for bits, _ in pairs) / total_bytes
    squares = sum((bits - ratio * size) ** 2 for bits, size in pairs)
    return math.sqrt(squares / (count * (count - 1))) / (total_bytes / count)


def _rolling(sample: dict[str, Any]) -> tuple[float, int]:
    loglikelihood, size = sample["bits_per_byte"]
    return float(loglikelihood), int(size)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps the harness's bars and notices, of which there are screens, out of the log."""
    harness = logging.getLogger("lm_eval")
    level, start_bar = harness.level, tqdm.__init__

    def start_hidden(bar: tqdm, *arguments: Any, **options: Any) -> None:
        start_bar(bar, *arguments, **{**options, "disable": True})

    harness.setLevel(logging.ERROR)
    tqdm.__init__ = start_hidden  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        harness.setLevel(level)
        tqdm.__init__ = start_bar
