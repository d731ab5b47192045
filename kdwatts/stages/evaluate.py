"""Scores of one subject, student or teacher, by the harness."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kdwatts.config.evaluation import EvalTask
from kdwatts.config.experiment import Config, to_dict
from kdwatts.data.chat import DATE_STRING, template_arguments
from kdwatts.evaluation import lighteval
from kdwatts.evaluation.chat_prompts import check_same_prompts
from kdwatts.evaluation.lm_eval import evaluate, load_tasks
from kdwatts.evaluation.lm_tasks import TaskSources, dataset_dir, harness_version, task_files
from kdwatts.evaluation.own_tasks import check_own_tasks
from kdwatts.evaluation.task_needs import check_cache, check_known
from kdwatts.evaluation.written_answers import is_generated
from kdwatts.metrics.scores import Primaries, with_chance
from kdwatts.models.align import check_same_tokens
from kdwatts.models.load import (
    load_model,
    local_dir,
    location,
    pair_tokenizer,
    tokenizer_location,
)
from kdwatts.models.quantization import on_device
from kdwatts.models.rounding_to_bits import load_rounded
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import Score
from kdwatts.runtime.fingerprint import fingerprint_tree, sha256_file
from kdwatts.runtime.paths import resolve_dir
from kdwatts.stages.answering import evaluate_with_engine
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.gpu_memory import release
from kdwatts.stages.measured_subject import (
    quantized_settings,
    subject_settings,
    subject_source,
    tokenizer_path,
)
from kdwatts.stages.quantized_subjects import name_of
from kdwatts.stages.teacher import teacher_tokenizer
from kdwatts.stages.work import Work, frozen_dtype, shared_rows, teacher_source
from kdwatts.stages.writers import check_gpus, writer_key

log = logging.getLogger(__name__)

NAME = "evaluate"
VERSION = 4
SCORES_NAME = "eval.json"


def settings(config: Config, subject: str, quantization: str | None = None) -> dict[str, Any]:
    """What the scores and their joules depend on, besides hardware.

    Raises ValueError where a harness or a local copy of a dataset is missing.
    """
    evaluation = config.eval
    tasks_file = evaluation.lighteval.tasks_file
    # Templates once asked the clock, so what was scored through one is not taken for this.
    clock = {"clock": DATE_STRING} if any(map(evaluation.templated, evaluation.tasks)) else {}
    # In the key of those alone who read it.
    sentences = _sentence_ends(config)
    scored = (
        quantized_settings(config, subject, quantization)
        if quantization
        else subject_settings(config, subject)
    )
    # What our own loop writes keeps the keys that it had before there was another way.
    by_engine = {}
    if _has_engine(config):
        source = config.model.student if subject == "student" else teacher_source(config)
        by_engine = {"engine": writer_key(config, evaluation.engine, subject, source)}
    return {
        **by_engine,
        **({"nltk_data": fingerprint_tree(sentences)} if sentences else {}),
        **scored,
        "tasks": [
            {**to_dict(task), "apply_chat_template": evaluation.templated(task)}
            for task in evaluation.tasks
        ],
        **text_settings(config),
        "tasks_file": sha256_file(resolve_dir(tasks_file)) if tasks_file else None,
        "batch_size": evaluation.batch_size,
        **clock,
    }


def _has_engine(config: Config) -> bool:
    """Whether an engine writes the answers of tasks that generate; lighteval writes its own."""
    tasks = config.eval.tasks
    return config.eval.engine != "loop" and any(task.harness == "lm_eval" for task in tasks)


def _sentence_ends(config: Config) -> Path | None:
    """The folder that IFEval takes its list of sentence ends from; None where it reads no copy."""
    data_dir = task_sources(config).data_dir
    folder = data_dir / "nltk_data" if data_dir else None
    asks = any(task.harness == "lm_eval" and "ifeval" in task.name for task in config.eval.tasks)
    return (
        folder
        if folder and asks and folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))
        else None
    )


def text_settings(config: Config) -> dict[str, Any]:
    """What the tasks' texts depend on, besides the tasks' names."""
    evaluation, sources = config.eval, task_sources(config)
    for name, folder, holds in (
        ("tasks_dir", sources.tasks_dir, "YAML tasks"),
        ("data_dir", sources.data_dir, "copies of the tasks' data sets"),
    ):
        if folder and not folder.is_dir():
            raise ValueError(
                f"eval.{name}={getattr(evaluation, name)}: there is no such folder; give one that "
                f"holds {holds}, or null"
            )
    if sources.tasks_dir:
        check_own_tasks(sources.tasks_dir)
    return {
        "files": [[sha256_file(path) for path in task_files(t.name)] for t in evaluation.tasks],
        "datasets": _dataset_keys(evaluation.tasks, sources.data_dir),
        "tasks_dir": fingerprint_tree(sources.tasks_dir) if sources.tasks_dir else None,
        "harnesses": _versions(config),
    }


def task_sources(config: Config) -> TaskSources:
    """Where the tasks and their data are looked for."""
    folders = (config.eval.data_dir, config.eval.tasks_dir)
    data_dir, tasks_dir = (None if folder is None else resolve_dir(folder) for folder in folders)
    return TaskSources(data_dir, tasks_dir)


def _dataset_keys(tasks: list[EvalTask], data_dir: Path | None) -> dict[str, str]:
    """Name of each dataset to the key of its local copy; none where the hub is read."""
    if data_dir is None:
        return {}
    directories = {
        dataset: dataset_dir(data_dir, dataset, task.name)
        for task in tasks
        for dataset in task.datasets
    }
    return {dataset: fingerprint_tree(path) for dataset, path in sorted(directories.items())}


def _versions(config: Config) -> dict[str, str]:
    """Of the harnesses in use: another one may ask and score otherwise."""
    versions = {"lm_eval": harness_version}
    versions["lighteval"] = lambda: lighteval.installed_version(config.eval.lighteval.python)
    used = {task.harness for task in config.eval.tasks}
    return {harness: versions[harness]() for harness in sorted(used)}


def check(config: Config) -> None:
    """Raise ValueError for what would stop an evaluation after the training, or make it unfair.

    Teacher and student must be asked in the same words. So their chat templates must render alike
    wherever one is used, and one vocabulary must really serve both where it is said to.
    """
    tasks = config.eval.tasks
    check_cache(tasks, task_sources(config).data_dir)
    of_lm_eval = [task for task in tasks if task.harness == "lm_eval"]
    check_known(of_lm_eval, task_sources(config))
    if _has_engine(config):
        check_gpus(config, config.eval.engine)
        _check_kinds(config, of_lm_eval)
    student, teacher = pair_tokenizer(config.model), _own_tokenizer(config)
    if teacher is not None and config.model.one_vocabulary:
        check_same_tokens(student, teacher, rows=shared_rows(config))
    for task in tasks:
        if config.eval.templated(task):
            check_same_prompts(
                student,
                teacher,
                student_path=config.model.tokenizer,
                teacher_path=config.model.teacher.path if config.model.teacher else None,
                task=task.name,
            )


def _check_kinds(config: Config, tasks: list[EvalTask]) -> None:
    """Raise ValueError for a benchmark that neither our loop alone nor an engine alone can read.

    The kinds of a group's parts are known only when they are loaded.
    """
    sources = task_sources(config)
    loaded = load_tasks([(task, False) for task in tasks], sources=sources, meter=None)
    kinds = [
        is_generated(parts, task.name, config.eval.engine)
        for task, parts in zip(tasks, loaded, strict=True)
    ]
    if not any(kinds):
        log.warning(
            "eval.engine=%s writes nothing: no task of eval=%s generates",
            *(config.eval.engine, config.eval.name),
        )


def _own_tokenizer(config: Config) -> Any | None:
    """The teacher's; None without a teacher, and for one that was saved without, as ours may be."""
    teacher = config.model.teacher
    directory = local_dir(teacher.path) if teacher and teacher.path else None
    if teacher is None or (directory and not (directory / "tokenizer_config.json").is_file()):
        return None
    return teacher_tokenizer(config)


def load_subject(work: Work, subject: str, quantization: str | None = None) -> nn.Module:
    """The model to measure, on its device, in the precision it is served in."""
    source = subject_source(work.config, work.inputs, subject, quantization)
    with work.meter.window("load"):
        if quantization:
            return load_rounded(source, dtype=frozen_dtype(work.config), device=work.device)
        return on_device(load_model(source, dtype=frozen_dtype(work.config)), work.device)


def build(work: Work, subject: str, quantization: str | None = None) -> None:
    """Run every task and write the scores to `work.out_dir`, in the order of the configuration.

    When a task fails, the scores before it are in the run's folder.
    """
    note_attempt(work)
    tasks = work.config.eval.tasks
    scores: list[Score] = []
    for harness, run in (("lm_eval", _by_lm_eval), ("lighteval", _by_lighteval)):
        chosen = [(t, work.config.eval.templated(t)) for t in tasks if t.harness == harness]
        if chosen:
            try:
                run(work, subject, quantization, chosen, scores)
            except Exception:
                keep_scores(work.run_dir, name_of(subject, quantization), _rows(scores, tasks))
                raise
    order = [task.display_name for task in tasks]
    scores.sort(key=lambda score: order.index(score.benchmark or score.task))
    write_json(work.out_dir / SCORES_NAME, _rows(scores, tasks))


def primaries(tasks: list[EvalTask]) -> Primaries:
    """Task to the metric that counts for it, and its chance level."""
    return {task.display_name: (task.primary_metric, task.chance) for task in tasks}


def _rows(scores: list[Score], tasks: list[EvalTask]) -> list[dict[str, Any]]:
    return with_chance([asdict(score) for score in scores], primaries(tasks))


def keep_scores(run_dir: Path, subject: str, scores: list[dict[str, Any]]) -> None:
    """Add the scores of a subject whose evaluation failed to those of others in eval.json."""
    path = run_dir / SCORES_NAME
    rows = read_json(path) if path.is_file() else []
    rows = [row for row in rows if row["subject"] != subject] + scores
    if rows:
        write_json(path, rows)


def _by_lm_eval(
    work: Work,
    subject: str,
    quantization: str | None,
    tasks: list[tuple[EvalTask, bool]],
    scores: list[Score],
) -> None:
    config, path = work.config, tokenizer_path(work.config, subject)
    if config.eval.engine != "loop":
        evaluate_with_engine(
            work,
            name_of(subject, quantization),
            subject_source(work.config, work.inputs, subject, quantization),
            tasks,
            tokenizer_path=path,
            sources=task_sources(config),
            load=lambda: load_subject(work, subject, quantization),
            into=scores,
        )
        return
    evaluate(
        load_subject(work, subject, quantization),
        pair_tokenizer(config.model, path),
        tasks,
        subject=name_of(subject, quantization),
        batch_size=config.eval.batch_size,
        sources=task_sources(config),
        meter=work.meter,
        into=scores,
    )


def _by_lighteval(
    work: Work,
    subject: str,
    quantization: str | None,
    tasks: list[tuple[EvalTask, bool]],
    scores: list[Score],
) -> None:
    assert quantization is None, "config.quantization_checks refuses lighteval beside it"
    config = work.config
    source = subject_source(config, work.inputs, subject)
    assert source.path
    path = tokenizer_path(config, subject)
    is_templated = any(templated for _, templated in tasks)
    served = lighteval.Served(
        model=location(source.path),
        revision=source.revision,
        tokenizer=tokenizer_location(config.model, path),
        template_arguments=(
            template_arguments(pair_tokenizer(config.model, path)) if is_templated else {}
        ),
        dtype=str(frozen_dtype(config)).removeprefix("torch."),
        batch_size=config.eval.batch_size,
        device_index=None if work.device.type == "cpu" else work.device.index or 0,
    )
    release(work.device)
    lighteval.evaluate(
        served,
        tasks,
        subject=subject,
        settings=config.eval.lighteval,
        data_dir=task_sources(config).data_dir,
        meter=work.meter,
        into=scores,
    )
