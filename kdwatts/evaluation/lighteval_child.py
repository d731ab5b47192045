"""Runs inside an interpreter that has lighteval and need not have kdwatts.

A request is a line of JSON on stdin, an answer is one on stdout. `start` loads library and model,
`load` a task with its data, and `run` asks the model. Whatever the libraries print goes to stderr.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # This file's folder is first on the path, and holds a lighteval.py that is not the library.
    sys.path.pop(0)

import ctypes
import json
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any


class Refusal(Exception):
    """One sentence about what the user can correct."""


class _NoCache:
    """Takes the place of lighteval's, which keeps answers by configuration and not by weights."""

    def _init_registry(self, registry: Any) -> None:
        pass


class Session:
    """The model, and the task that was loaded last."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._model: Any = None
        self._pipeline: Any = None

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to `start`: library and model are loaded."""
        transformers_model = import_module("lighteval.models.transformers.transformers_model")
        setup = self._setup
        config = transformers_model.TransformersModelConfig(
            model_name=setup["model"],
            revision=setup["revision"] or "main",
            tokenizer=setup["tokenizer"],
            dtype=setup["dtype"],
            batch_size=setup["batch_size"],
            device="cpu" if setup["device_index"] is None else "cuda",
            override_chat_template=False,  # Each task says.
            model_parallel=False,
            cache_dir=setup["scratch_dir"],
        )
        model = self._model = transformers_model.TransformersModel(config)
        model.cleanup = lambda: None  # It would drop the model after a task.
        fix_day(model.tokenizer, setup["template_arguments"])
        _tolerate_broken_task_files()
        return {"version": version("lighteval")}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to `load`: a task is loaded with its data."""
        pipeline = import_module("lighteval.pipeline")
        prompts = import_module("lighteval.tasks.prompt_manager")
        tracker = import_module("lighteval.logging.evaluation_tracker").EvaluationTracker(
            output_dir=self._setup["scratch_dir"], save_details=False
        )
        model, name = self._model, request["name"]
        model.use_chat_template = request["template"]
        model.prompt_manager = prompts.PromptManager(
            use_chat_template=request["template"], tokenizer=model.tokenizer
        )
        model._cache = _NoCache()
        self._check_known(name)
        lighteval_task: Any = import_module("lighteval.tasks.lighteval_task")
        lighteval_task.load_dataset = partial(
            load_local_copy,
            import_module("datasets").load_dataset,
            self._setup,
            request["datasets"],
            name,
        )
        self._pipeline = pipeline.Pipeline(
            tasks=f"{name}|{request['num_fewshot']}",
            pipeline_parameters=pipeline.PipelineParameters(
                launcher_type=pipeline.ParallelismManager.NONE,
                custom_tasks_directory=self._setup["tasks_file"],
                max_samples=request["limit"],
            ),
            evaluation_tracker=tracker,
            model=model,
        )
        model._cache = None
        return {}

    def _check_known(self, name: str) -> None:
        registry = import_module("lighteval.tasks.registry").Registry
        known = registry.load_all_task_configs(
            custom_tasks=self._setup["tasks_file"], load_multilingual=False
        )
        if name not in known and not any(task.startswith(f"{name}:") for task in known):
            raise Refusal(
                f"eval.tasks: lighteval {version('lighteval')} has no task {name!r}; `lighteval "
                "tasks list` names its tasks, and eval.lighteval.tasks_file names a file of your "
                "own"
            )

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to `run`: the scores of the loaded task."""
        pipeline, model = self._pipeline, self._model
        counts: list[int] = []
        with _counted(model, counts), refuse_not_finite(model.model, self._setup["subject"]):
            pipeline.evaluate()
        if self._setup["device_index"] is not None:
            import_module("torch").cuda.synchronize()
        scores = {
            name: {
                "metrics": _metrics(task, pipeline.evaluation_tracker.metrics_logger, name),
                "num_samples": len(pipeline.documents_dict[name]),
            }
            for name, task in pipeline.tasks_dict.items()
        }
        return {"scores": scores, "tokens": sum(counts)}


def fix_day(tokenizer: Any, template_arguments: dict[str, str]) -> None:
    """Make a tokenizer's chat template print the given day, as it does for us."""
    tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, **template_arguments)


@contextmanager
def _counted(model: Any, counts: list[int]) -> Iterator[None]:
    """Adds to `counts` the tokens that the model reads and writes meanwhile, without padding."""
    prepare, write = model.prepare_batch_logprob, model.greedy_until
    ends = {model.tokenizer.eos_token_id, model.tokenizer.pad_token_id}

    def counted_prepare(*arguments: Any, **options: Any) -> Any:
        """Every choice is read with the whole prompt before it, cut to the context.

        Responses would not tell: of choices of one token they keep the first alone.
        """
        batch = prepare(*arguments, **options)
        counts.append(sum(batch.input_lengths))
        return batch

    def counted_write(docs: Any) -> Any:
        """The prompt, and each answer up to its end token."""
        responses = write(docs)
        for response in responses:
            counts.append(len(response.input_tokens) - response.padded_tokens_count)
            counts.extend(
                _written([int(token) for token in answer], ends)
                for answer in response.output_tokens
            )
        return responses

    model.prepare_batch_logprob, model.greedy_until = counted_prepare, counted_write
    try:
        yield
    finally:
        model.prepare_batch_logprob, model.greedy_until = prepare, write


@contextmanager
def refuse_not_finite(model: Any, subject: str) -> Iterator[None]:
    """A context that refuses a model whose logits are not finite: its first choice would win.

    A text's last position has seen all before it, so it shows whether any of them was not finite.
    The device is waited for once, at the end.
    """
    finite: list[Any] = []

    def look(module: Any, inputs: Any, said: Any) -> None:
        finite.append(said.logits[:, -1].amax(-1).isfinite().all())

    hook = model.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()
    if not all(bool(one) for one in finite):
        raise Refusal(
            f"evaluate: the {subject}'s logits are not finite (NaN or infinite), so it cannot be "
            f"scored; its weights may be damaged: check the {subject}'s files"
        )


def _written(ids: list[int], ends: set[int | None]) -> int:
    return next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))


def _metrics(task: Any, logger: Any, name: str) -> dict[str, Any]:
    better: dict[str, bool] = {}
    for metric in task.metrics:
        told = metric.higher_is_better
        better.update(told if isinstance(told, dict) else {metric.metric_name: told})
    found = logger.metric_aggregated[name]
    return {
        metric: {
            "value": number_or_nan(value),
            "stderr": number_or_nan(found.get(f"{metric}_stderr")),
            "higher_is_better": bool(better.get(metric, True)),
        }
        for metric, value in found.items()
        if not metric.endswith("_stderr")
    }


def number_or_nan(value: Any) -> float:
    """The value as a number, and NaN for anything else: such a metric must not spoil the others."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def load_local_copy(
    load: Any,
    setup: dict[str, Any],
    datasets: list[str],
    task: str,
    path: str,
    name: str | None = None,
    revision: str | None = None,
    **options: Any,
) -> Any:
    """lighteval's function for data, directed to the local copies.

    They have a cache of their own: the library knows a local folder by what its README lists.
    """
    data_dir = setup["data_dir"]
    if os.path.isdir(path) and not (data_dir and path in datasets):
        raise Refusal(
            f"eval.tasks: {task} reads the folder {os.path.abspath(path)}, but a change in it "
            "would not change the key; put it below eval.data_dir, and add its name to the task's "
            "`datasets`"
        )
    if data_dir is None:
        return load(path, name, revision=revision, **options)
    if path not in datasets:
        raise Refusal(
            f"eval.tasks: {task} reads the dataset {path}, but its `datasets` do not name it, so a "
            f"change in eval.data_dir would not change the key; add {path} to them"
        )
    directory = Path(data_dir) / path
    if name and (directory / name).is_dir() and not (directory / "README.md").is_file():
        directory, name = directory / name, None
    try:
        return load(str(directory), name, cache_dir=setup["scratch_dir"], **options)
    except ValueError as error:
        raise Refusal(
            f"eval.data_dir: {directory} cannot be read as {name or 'a dataset'} for {task} "
            f"({' '.join(str(error).split())}); copy {path} again"
        ) from error


def _tolerate_broken_task_files() -> None:
    """Has the registry import its task files one by one, and once, and skip those that fail.

    It imports all of them whatever is asked for; one downloads while it is imported.
    """
    registry = import_module("lighteval.tasks.registry").Registry

    def from_modules(modules: list[str]) -> dict[str, Any]:
        configs: dict[str, Any] = {}
        for module in modules:
            try:
                configs.update(registry._extract_configs(import_module(module)))
            except Exception as error:
                print(f"skipped {module}: {type(error).__name__}: {error}", file=sys.stderr)
        return configs

    registry._load_from_files = staticmethod(
        lambda files, prefix: from_modules([f"{prefix}.{file.stem}" for file in files])
    )
    registry._load_from_subdirs = staticmethod(
        lambda folders: from_modules([f"lighteval.tasks.tasks.{f.name}.main" for f in folders])
    )
    registry.load_all_task_configs = staticmethod(cache(registry.load_all_task_configs))


def main() -> None:
    """Answer requests until there are no more."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no child outlives its parent.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # Whatever prints meanwhile must not be taken for an answer.
    session = Session(json.loads(sys.argv[1]))
    handlers = {"start": session.start, "load": session.load, "run": session.run}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request["do"]](request)
        except Refusal as refusal:
            answer = {"refused": str(refusal)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": type(error).__name__}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
