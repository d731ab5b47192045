"""Results of lm-evaluation-harness as scores of ours, and whether two of them may be compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from kdwatts.metrics.accuracy_kept import Kept, OmPerf, accuracy_kept, om_perf
from kdwatts.metrics.scores import benchmark_scores
from kdwatts.records.schema import Score
from multirun_analysis.importer.foreign import Source, count, number, read_object, section
from multirun_analysis.importer.known import BENCHMARKS, PRIMARIES
from multirun_analysis.values.yaml_files import value_at

HARNESS = "lm-evaluation-harness"

_SETTINGS = ("lm_eval_version", "fewshot_as_multiturn", "chat_template", "system_instruction")
_CONFIG = ("limit", "gen_kwargs", "fewshot_seed")
_TASK = (
    "dataset_path", "dataset_name", "test_split", "doc_to_text", "doc_to_target", "doc_to_choice",
    "description", "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot",
    "output_type", "generation_kwargs", "filter_list",
)  # fmt: skip
"""What decides a prompt or how its answer is read; the rest of a task's configuration is naming."""


@dataclass(frozen=True)
class Evaluation:
    """The results of one model."""

    source: Source
    content: dict[str, Any]
    scores: list[Score]
    left_out: list[str]
    """Benchmarks without an agreed primary metric."""
    model: str | None
    """What was evaluated, or the base of its adapter."""
    params: int | None

    @property
    def where(self) -> str:
        return str(self.source.path)


def read_evaluation(source: Source, *, subject: str) -> Evaluation:
    """The primary score of each known benchmark.

    Raises ValueError for a file that is not of the harness, or lacks what a score needs.
    """
    content, where = read_object(source), str(source.path)
    results = section(content, "results", where)
    if not results:
        raise ValueError(
            f"{where}: has no results of lm-evaluation-harness; give its results_*.json as "
            "eval.json, or remove it"
        )
    groups = section(content, "group_subtasks", where)
    for name, tasks in groups.items():
        if not isinstance(tasks, list) or not all(isinstance(t, str) for t in tasks):
            raise ValueError(
                f"{where}: group_subtasks.{name} is no list of tasks; evaluate it again"
            )
        if name in tasks:
            raise ValueError(f"{where}: group {name} holds itself; evaluate it again")
    inner = {task for tasks in groups.values() for task in tasks}
    config = section(content, "config", where)
    has_count = config.get("model_num_parameters") is not None
    return Evaluation(
        source=source,
        content=content,
        scores=[_score(content, task, subject, where) for task in BENCHMARKS if task in results],
        left_out=[name for name in results if name not in BENCHMARKS and name not in inner],
        model=_pretrained(config.get("model_args")),
        params=count(config, "model_num_parameters", f"{where}: config") if has_count else None,
    )


TEACHER_SCORES_0 = "the teacher scores 0 on a benchmark"


def om_perf_and_kept(
    student: Evaluation | None, teacher: Evaluation | None
) -> tuple[OmPerf, Kept, str | None]:
    """OM_perf and accuracy kept, or nothing and the reason why the two cannot be compared.

    Both must have been asked alike: a few-shot prompt in another form moves scores by more than
    distillation does.
    """
    nothing = OmPerf(None, None, None, ()), accuracy_kept([])
    if student is None or teacher is None:
        missing = "the student" if student is None else "the teacher"
        return *nothing, f"there is no eval.json of {missing}"
    models = (("student", student), ("teacher", teacher))
    records = [asdict(one) | {"subject": who} for who, model in models for one in model.scores]
    scores = benchmark_scores(records, PRIMARIES)
    if not scores:
        return *nothing, "student and teacher share no benchmark that has a primary metric here"
    if found := differences(student, teacher):
        return *nothing, f"student and teacher were evaluated differently: {'; '.join(found)}"
    plain = om_perf(scores)
    return plain, accuracy_kept(scores), None if plain.ratio is not None else TEACHER_SCORES_0


def differences(student: Evaluation, teacher: Evaluation) -> list[str]:
    """What differs in harness, prompt or sample between two evaluations, in words."""
    words = []
    for path in [*((key,) for key in _SETTINGS), *(("config", key) for key in _CONFIG)]:
        mine, its = value_at(student.content, *path), value_at(teacher.content, *path)
        if mine != its:
            words.append(
                f"{path[-1]} is {_shown(mine)} for the student and {_shown(its)} for the teacher"
            )
    shared = {score.task for score in student.scores} & {score.task for score in teacher.scores}
    leaves = sorted(
        {
            leaf
            for one in (student, teacher)
            for task in shared
            for leaf in _leaves(one.content, task)
        }
    )
    fields = [("configs", key) for key in _TASK]
    for part, *inner in [*fields, ("versions",), ("n-shot",), ("n-samples",)]:
        differing = [
            leaf
            for leaf in leaves
            if value_at(student.content, part, leaf, *inner)
            != value_at(teacher.content, part, leaf, *inner)
        ]
        if differing:
            name = inner[0] if inner else part
            words.append(f"{name} differs in {len(differing)} tasks, such as {differing[0]}")
    return words


def _score(content: dict[str, Any], task: str, subject: str, where: str) -> Score:
    metric = BENCHMARKS[task].metric
    name, _, chosen = metric.partition(",")
    where_task = f"{where}: results.{task}"
    found = section(section(content, "results", where), task, where)
    value = number(found, f"{name},{chosen or 'none'}", where_task)
    if value is None:
        raise ValueError(
            f"{where_task}: has no {name},{chosen or 'none'}, the metric that counts for this "
            f"benchmark, only {', '.join(found)}; evaluate it again"
        )
    stderr_key = f"{name}_stderr,{chosen or 'none'}"
    # The harness writes N/A where it computed none.
    has_stderr = not isinstance(found.get(stderr_key), str)
    leaves = _leaves(content, task)
    shots = {value_at(content, "n-shot", leaf) for leaf in leaves}
    if len(shots) > 1 or not isinstance(shot := shots.pop(), int):
        raise ValueError(
            f"{where}: the tasks of {task} should have one n-shot and have differing or none; "
            "evaluate the benchmark with one number of examples"
        )
    return Score(
        subject=subject,
        harness=HARNESS,
        harness_version=str(content.get("lm_eval_version") or "unknown"),
        task=task,
        metric=metric,
        value=value,
        stderr=number(found, stderr_key, where_task) if has_stderr else None,
        higher_is_better=True,
        num_fewshot=shot,
        num_samples=sum(_num_samples(content, leaf, where) for leaf in leaves),
        energy_j=None,
        chance=BENCHMARKS[task].chance,
    )


def _pretrained(arguments: Any) -> str | None:
    """The model among the harness's arguments, a text such as `pretrained=a/b,dtype=bfloat16`."""
    if isinstance(arguments, dict):
        return arguments.get("pretrained")
    entries = str(arguments).split(",")
    named = (
        entry.removeprefix("pretrained=") for entry in entries if entry.startswith("pretrained=")
    )
    return next(named, None)


def _num_samples(content: dict[str, Any], leaf: str, where: str) -> int:
    samples = section(section(content, "n-samples", where), leaf, f"{where}: n-samples")
    return count(samples, "effective", f"{where}: n-samples.{leaf}")


def _leaves(content: dict[str, Any], task: str) -> list[str]:
    """The tasks of a group, at any depth; a task that is no group is its own."""
    inner = value_at(content, "group_subtasks", task) or []
    return [leaf for name in inner for leaf in _leaves(content, name)] or [task]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"a text of {len(text):,} characters"
