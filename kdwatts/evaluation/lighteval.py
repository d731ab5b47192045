"""lighteval in an interpreter of its own, on a saved model: its results as our records."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdwatts.config.evaluation import EvalTask, Lighteval
from kdwatts.evaluation.answers import finite_error, finite_or_none
from kdwatts.records.schema import Score, StageRow
from kdwatts.runtime import interrupt
from kdwatts.runtime.child_environment import child_environment
from kdwatts.runtime.paths import expanded, resolve_dir
from kdwatts.telemetry.meter import Meter

log = logging.getLogger(__name__)

HARNESS = "lighteval"
CHILD = Path(__file__).with_name("lighteval_child.py")


@dataclass(frozen=True)
class Served:
    """The model to measure, as a folder or hub id for `from_pretrained`."""

    model: str
    revision: str | None
    tokenizer: str
    dtype: str
    batch_size: int
    device_index: int | None
    """Index among the visible GPUs. None for the CPU."""
    template_arguments: dict[str, str] = field(default_factory=dict)
    """Arguments of the chat template, where a task's prompts are rendered by it."""


def installed_version(python: str | None) -> str:
    """The version of lighteval that an interpreter has. It is not imported, so this is quick.

    Raises ValueError where there is no such interpreter, or no lighteval in it.
    """
    interpreter = expanded(python) if python else sys.executable
    script = "from importlib.metadata import version; print(version('lighteval'))"
    try:
        done = subprocess.run(
            [interpreter, "-c", script],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=child_environment(None),
        )
    except OSError as error:
        raise ValueError(
            f"eval.lighteval.python={python} cannot be run ({error.strerror}); give the path of a "
            "Python interpreter that has lighteval"
        ) from None
    if done.returncode:
        raise ValueError(
            f"eval.lighteval.python={python}: {interpreter} has no lighteval; make a virtual "
            "environment with pip install 'lighteval==0.13.0' 'xxhash<4' and give the path of its "
            "bin/python"
        )
    return done.stdout.strip()


def evaluate(
    served: Served,
    tasks: Sequence[tuple[EvalTask, bool]],
    *,
    subject: str,
    settings: Lighteval,
    data_dir: Path | None,
    meter: Meter,
    into: list[Score] | None = None,
) -> list[Score]:
    """Every metric of every task for one model. Each task is a metered window of its own.

    The child process says when it has loaded a task and when it has run it. So imports and loading
    are in windows of their own. Each task comes with a flag: whether its prompts are rendered by
    the chat template. Scores are added to `into` as soon as their task ends.

    Raises ValueError for a task that lighteval does not have or cannot read, and for a model whose
    logits are not finite. Raises RuntimeError where lighteval fails.
    """
    scores = [] if into is None else into
    with running_child(served, settings, data_dir, subject) as ask:
        with meter.window("load"):
            harness_version = ask({"do": "start"})["version"]
        for task, templated in tasks:
            interrupt.stop_if_requested(f"{subject}: evaluation begins anew")
            request = {"name": task.name, "num_fewshot": task.num_fewshot, "limit": task.limit}
            with meter.window("load_tasks"):
                ask({"do": "load", **request, "datasets": task.datasets, "template": templated})
            with meter.window(task.display_name) as window:
                results = ask({"do": "run"})
                window.tokens += results["tokens"] or 0
            assert window.row
            found = _scores(results, task, subject, harness_version, window.row)
            scores.extend(found)
            _check_primary(found, task)
    return scores


AnswerTo = Callable[[dict[str, Any]], dict[str, Any]]
"""Sends the child a request and waits for its answer."""


@contextmanager
def running_child(
    served: Served, settings: Lighteval, data_dir: Path | None, subject: str = "model"
) -> Iterator[AnswerTo]:
    """The process that runs lighteval. It ends with this context, and with this process."""
    interpreter = expanded(settings.python) if settings.python else sys.executable
    own_tasks = settings.tasks_file and str(resolve_dir(settings.tasks_file))
    # A cache of its own: lighteval would reuse the answers of a model before it was retrained.
    with tempfile.TemporaryDirectory(prefix="kdwatts-lighteval-") as scratch:
        log_path = Path(scratch) / "stderr.txt"
        setup = {
            **asdict(served),
            "subject": subject,
            "scratch_dir": scratch,
            "tasks_file": own_tasks,
            "data_dir": str(data_dir) if data_dir else None,
        }
        with log_path.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [interpreter, str(CHILD), json.dumps(setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                env=child_environment(
                    None if served.device_index is None else (served.device_index,),
                    cpu=served.device_index is None,
                ),
                start_new_session=True,  # What is sent to our group is heeded between tasks.
            )
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def answer_to(request: dict[str, Any]) -> dict[str, Any]:
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
                line = stdout.readline()
            except BrokenPipeError:
                line = ""
            answer = json.loads(line) if line else {"failed": f"exit {process.wait()}"}
            if "refused" in answer:
                raise ValueError(answer["refused"])
            if "failed" in answer:
                raise RuntimeError(
                    f"lighteval failed at {request.get('name', request['do'])} "
                    f"({answer['failed']}): {_last_words(log_path)}"
                )
            return answer

        try:
            yield answer_to
            stdin.close()
            process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
            stdout.close()
            with suppress(BrokenPipeError):  # A request that nobody is there to read.
                stdin.close()


def _last_words(path: Path) -> str:
    text = path.read_text("utf-8", "replace")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return (
        lines[-1][:400] if lines else "it printed nothing; start its interpreter by hand to see why"
    )


def _scores(
    results: Mapping[str, Any], task: EvalTask, subject: str, harness_version: str, row: StageRow
) -> list[Score]:
    """The child's scores, and of a group of tasks their mean by the group's name."""
    energy = row.energy
    by_task: dict[str, dict[str, Any]] = results["scores"]
    if len(by_task) > 1:
        by_task = {task.display_name: mean_over_tasks(by_task), **by_task}
    else:
        by_task = {task.display_name: next(iter(by_task.values()))}
    scores = [
        Score(
            subject=subject,
            harness=HARNESS,
            harness_version=harness_version,
            task=name,
            metric=metric,
            value=finite_or_none(one["value"], subject=subject, task=name, metric=metric),
            stderr=finite_error(one["stderr"]),
            higher_is_better=one["higher_is_better"],
            num_fewshot=task.num_fewshot,
            num_samples=found["num_samples"],
            energy_j=energy.value,
            energy_quality=energy.quality,
            benchmark=task.display_name,
            tokens=row.tokens,
            duration_s=row.duration_s,
        )
        for name, found in by_task.items()
        for metric, one in found["metrics"].items()
    ]
    return scores


def _check_primary(scores: list[Score], task: EvalTask) -> None:
    metrics = {score.metric for score in scores if score.task == task.display_name}
    if task.primary_metric not in metrics:
        raise ValueError(
            f"eval.tasks: {task.name} of lighteval has the metrics {', '.join(sorted(metrics))}, "
            f"but not the primary metric {task.primary_metric!r}; correct primary_metric in "
            "conf/eval"
        )


def mean_over_tasks(by_task: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over tasks with equal weights, as lighteval has it. Its standard errors add in squares.

    (lighteval itself gives the mean of the tasks' errors, which is not the error of their mean.)
    """
    tasks = list(by_task.values())
    shared = set.intersection(*(set(found["metrics"]) for found in tasks))
    means = {}
    for metric in sorted(shared):
        parts = [found["metrics"][metric] for found in tasks]
        errors = [part["stderr"] for part in parts]
        known = None not in errors
        means[metric] = {
            "value": sum(part["value"] for part in parts) / len(parts),
            "stderr": math.sqrt(sum(e**2 for e in errors)) / len(parts) if known else None,
            "higher_is_better": parts[0]["higher_is_better"],
        }
    return {"metrics": means, "num_samples": sum(found["num_samples"] for found in tasks)}
