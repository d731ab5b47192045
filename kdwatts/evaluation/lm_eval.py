"""lm-evaluation-harness through its Python API: its results as our records."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from kdwatts.config.evaluation import EvalTask
from kdwatts.data.chat import template_arguments
from kdwatts.evaluation.answers import (
    NotFinite,
    finite_error,
    finite_or_none,
    refuse_not_finite,
)
from kdwatts.evaluation.counting import TokenCount
from kdwatts.evaluation.lm_tasks import (
    LoadedTask,
    TaskSources,
    harness,
    harness_version,
    load_task,
)
from kdwatts.evaluation.written_answers import NotWritten, Write, write_with
from kdwatts.records.schema import Score, StageRow
from kdwatts.runtime import interrupt
from kdwatts.telemetry.meter import Meter

HARNESS = "lm-evaluation-harness"
BOOTSTRAP_ITERATIONS = 1000
"""For metrics without a closed form. With 0 the harness gives no standard error at all."""


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[tuple[EvalTask, bool]],
    *,
    subject: str,
    batch_size: int,
    sources: TaskSources,
    meter: Meter,
    into: list[Score] | None = None,
    loaded: Sequence[LoadedTask] | None = None,
    write: Write | None = None,
) -> list[Score]:
    """Every metric of every task for one model. Each task is a metered window of its own.

    Each task comes with a flag: whether its prompts are rendered by the chat template. Tasks that
    are not `loaded` yet are, in a window of its own. With `write` all answers come from there: the
    tasks are such that generate, and the model's weights are not read. A metric that is no number
    is None and is named in the log. Scores are added to `into` as soon as their task ends, so a
    task that fails does not lose those before it.

    Raises ValueError for a task that the harness does not know, or whose primary metric it lacks.
    Raises RuntimeError, with the task's name, for whatever the harness raises.
    """
    scores = [] if into is None else into
    with _quiet_libraries():
        models = harness("lm_eval.models.huggingface")
        is_templated = any(templated for _, templated in tasks)
        served = models.HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            chat_template_args=template_arguments(tokenizer) if is_templated else None,
        )
        refuse_not_finite(served, subject=subject)
        count = TokenCount(served)
        if write:
            write_with(served, write, count)
        if loaded is None:
            loaded = load_tasks(tasks, sources=sources, meter=meter)
        for (task, templated), parts in zip(tasks, loaded, strict=True):
            with meter.window(task.display_name) as window:
                count.into(window)
                try:
                    results = _run(served, task, parts, apply_chat_template=templated)
                except interrupt.Preempted:
                    raise
                except Exception as error:
                    raise RuntimeError(_in_one_sentence(task, subject, error)) from error
            assert window.row
            found = _scores(results, task, subject, window.row)
            scores.extend(found)
            _check_primary(found, task)
    return scores


def load_tasks(
    tasks: Sequence[tuple[EvalTask, bool]], *, sources: TaskSources, meter: Meter | None
) -> list[LoadedTask]:
    """The tasks with their data, read in a window of the meter, where there is one."""
    with _quiet_libraries(), meter.window("load_tasks") if meter else nullcontext():
        return [load_task(task, sources) for task, _ in tasks]


def _in_one_sentence(task: EvalTask, subject: str, error: Exception) -> str:
    """One sentence of what stopped a task, which is named: the harness's own words rarely do."""
    words = " ".join(str(error).split())
    if not isinstance(error, NotFinite | NotWritten):
        words = f"lm-eval raised {type(error).__name__}{f' ({words})' if words else ''}"
    return f"evaluate: {task.name} for the {subject}: {words}"


def fetch_data(task: EvalTask, tasks_dir: str | None = None) -> None:
    """Bring a task's data to this disk, into the cache of `datasets` where running it will look.

    Raises ValueError for a task that neither the harness nor `tasks_dir` has.
    """
    folder = Path(tasks_dir).expanduser() if tasks_dir else None
    with _quiet_libraries():
        load_task(task, TaskSources(tasks_dir=folder))


def task_texts(task: EvalTask, sources: TaskSources) -> list[list[str]]:
    """All strings of each document that a task scores, whatever the task's limit.

    Neither prompts nor examples are among them: their words are those of many other texts.
    """
    with _quiet_libraries():
        leaves = load_task(task, sources).leaves
        return [list(_strings(document)) for leaf in leaves for document in leaf.eval_docs]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


def _run(
    served: Any, task: EvalTask, loaded: LoadedTask, *, apply_chat_template: bool
) -> dict[str, Any]:
    evaluator = harness("lm_eval.evaluator")
    # It asks git, which complains on stderr in every folder that is no repository, and then the
    # whole machine: 0.6 to 2 s of its own, inside the window of a benchmark.
    evaluator.get_git_commit_hash = lambda: None
    evaluator.add_env_info = lambda results: None
    results = evaluator.simple_evaluate(
        model=served,
        tasks=loaded.parts,
        num_fewshot=task.num_fewshot,
        limit=task.limit,
        bootstrap_iters=BOOTSTRAP_ITERATIONS,
        log_samples=task.primary_metric == "bits_per_byte",
        apply_chat_template=apply_chat_template,
        task_manager=loaded.manager,
        random_seed=0,
        numpy_random_seed=0,
        torch_random_seed=0,
        fewshot_random_seed=0,
    )
    assert results
    return results


def _scores(results: dict[str, Any], task: EvalTask, subject: str, row: StageRow) -> list[Score]:
    energy = row.energy
    scores = []
    for name, metrics in results["results"].items():
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
                    harness_version=harness_version(),
                    task=name,
                    metric=metric if filter_name == "none" else key,
                    value=finite_or_none(value, subject=subject, task=name, metric=metric),
                    stderr=finite_error(stderr),
                    higher_is_better=metric not in LOWER_IS_BETTER if better is None else better,
                    num_fewshot=task.num_fewshot,
                    num_samples=metrics["sample_len"],
                    energy_j=energy.value,
                    energy_quality=energy.quality,
                    benchmark=task.display_name,
                    tokens=row.tokens,
                    duration_s=row.duration_s,
                )
            )
    return scores


def _check_primary(scores: list[Score], task: EvalTask) -> None:
    if not any(s.task == task.display_name and s.metric == task.primary_metric for s in scores):
        found = ", ".join(sorted({s.metric for s in scores})) or "no metric"
        raise ValueError(
            f"eval.tasks: {task.name} has the metrics {found}, but not the primary metric "
            f"{task.primary_metric!r}; correct primary_metric in conf/eval"
        )


LOWER_IS_BETTER = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")


def bits_per_byte_stderr(samples: Sequence[dict[str, Any]]) -> float | None:
    """Standard error of total bits over total bytes, in bits per byte. Documents are the samples.

    It is that of the ratio estimator: sqrt(sum (b_i - R n_i)^2 / (m (m - 1))) over the mean of n,
    for bits b and bytes n of m documents (Cochran 1977, Sampling Techniques, section 2.11). None
    for fewer than two documents, and without a byte.
    """
    pairs = [(-loglikelihood / math.log(2), size) for loglikelihood, size in map(_rolling, samples)]
    count = len(pairs)
    if count < 2 or not any(size for _, size in pairs):
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
