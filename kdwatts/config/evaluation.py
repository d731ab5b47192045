"""What student and teacher are scored on, and what they serve."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.config.generation import WRITERS
from kdwatts.config.ranges import at_least, between, choice
from kdwatts.config.serving import Serving
from kdwatts.runtime.paths import check_path

HARNESSES = ("lm_eval", "lighteval")
AXES = ("batch_sizes", "prompt_lengths", "new_lengths")
"""Of the serving grid."""


@dataclass
class InferenceGrid:
    """The serving benchmark: the same work for teacher and student.

    Each batch size is measured with each prompt length and each new length.
    """

    batch_sizes: list[int] = field(default_factory=lambda: [8])
    """Sequences that are served at once: one or more numbers."""
    prompt_lengths: list[int] = field(default_factory=lambda: [64])
    """Tokens of each prompt: one or more numbers."""
    new_lengths: list[int] = field(default_factory=lambda: [32])
    """Tokens written after each prompt: one or more numbers. The likeliest token is taken each
    time, and an end token ends nothing."""
    prompts: str | None = None
    """Text that prompts are cut from: a text file, or JSONL with the column `text`. null takes the
    end of the corpus."""
    min_window_s: float = 2.0
    """Least duration of one energy window. The work is repeated until the window is so long."""
    max_repeats: int = 10
    """Most windows of one point. Windows are repeated, at least three times, until the 95 %
    interval of their mean is within 5 % of it."""
    measurements: int = 3
    """Independent measurements of one model that the store keeps. A run makes the next one that is
    missing. It waits for no other run."""
    loop_point: list[int] | None = None
    """The point that metrics.json states: [batch size, prompt length, new length] of this grid.
    null takes the largest batch size and the middle lengths; of two middle ones the larger."""

    def __post_init__(self) -> None:
        for name in AXES:
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"eval.inference.{name}={list(values)} is empty or repeats itself; give one or "
                    "more numbers, each once"
                )
            for value in values:
                at_least(f"eval.inference.{name}", value, 1)
        check_path("eval.inference.prompts", self.prompts)
        at_least("eval.inference.min_window_s", self.min_window_s, 2.0)
        at_least("eval.inference.max_repeats", self.max_repeats, 3)
        at_least("eval.inference.measurements", self.measurements, 1)
        if self.loop_point is not None:
            self._check_point(list(self.loop_point))

    @property
    def point(self) -> tuple[int, int, int]:
        """Batch size, prompt length and new length of what metrics.json tells."""
        if self.loop_point is not None:
            batch_size, prompt_tokens, new_tokens = self.loop_point
            return batch_size, prompt_tokens, new_tokens
        return max(self.batch_sizes), _middle(self.prompt_lengths), _middle(self.new_lengths)

    def _check_point(self, asked: list[int]) -> None:
        """Raise ValueError for a point that is not measured."""
        axes = {name: list(getattr(self, name)) for name in AXES}
        if len(asked) != len(axes) or any(
            value not in values for value, values in zip(asked, axes.values(), strict=True)
        ):
            measured = ", ".join(f"{name}={values}" for name, values in axes.items())
            raise ValueError(
                f"eval.inference.loop_point={asked} is no point of the grid {measured}; give one "
                "batch size, one prompt length and one new length of it, or null"
            )


def _middle(lengths: list[int]) -> int:
    """The middle one by size; of two middle ones the larger."""
    return sorted(lengths)[len(lengths) // 2]


@dataclass
class EvalTask:
    """One benchmark."""

    name: str = MISSING
    """Task or group of tasks, as the harness or `eval.tasks_dir` names it. `tiny:NAME` ships with
    the package."""
    primary_metric: str = MISSING
    """The metric that counts: it enters accuracy kept and OM_perf. Other metrics are recorded
    beside it."""
    harness: str = "lm_eval"
    """Which software asks: lm-evaluation-harness or lighteval. Each has its own names of tasks and
    metrics."""
    chance: float | None = None
    """Score of guessing, 0 to 1. Accuracy kept is counted from it. null where guessing has no
    score; the task is then left out of accuracy kept."""
    num_fewshot: int = 0
    """Solved examples that stand before each question."""
    limit: int | None = None
    """Ask only so many first questions, of each child of a group: for short runs. null asks all."""
    datasets: list[str] = field(default_factory=list)
    """Data sets that the task reads, by their names on the hub. With eval.data_dir they are folders
    of these names there."""
    apply_chat_template: bool | None = None
    """Whether this task's prompts are written as conversations. null does as
    eval.apply_chat_template says."""

    def __post_init__(self) -> None:
        choice("eval.tasks.harness", self.harness, HARNESSES)
        at_least("eval.tasks.num_fewshot", self.num_fewshot, 0)
        if self.limit is not None:
            at_least("eval.tasks.limit", self.limit, 1)
        if self.chance is not None:
            between("eval.tasks.chance", self.chance, 0, 1)

    @property
    def display_name(self) -> str:
        """Its name in records and windows: `tiny:word_order` is `tiny_word_order`."""
        return self.name.replace(":", "_")


@dataclass
class Lighteval:
    """How lighteval is run: in a process of its own, on a saved model."""

    python: str | None = None
    """Python interpreter of an environment with lighteval. null takes the one that runs kdwatts."""
    tasks_file: str | None = None
    """Python file with your own tasks in a TASKS_TABLE. null adds none."""

    def __post_init__(self) -> None:
        check_path("eval.lighteval.python", self.python)
        check_path("eval.lighteval.tasks_file", self.tasks_file)


@dataclass
class Eval:
    """What student and teacher are scored on, and how serving is measured."""

    name: str = MISSING
    """Name of this evaluation."""
    tasks: list[EvalTask] = field(default_factory=list)
    """The benchmarks. An empty list scores nothing."""
    batch_size: int = 16
    """Questions that are asked at once."""
    apply_chat_template: bool = False
    """Whether prompts are written as conversations, by the chat template. It is the same for
    teacher and student."""
    data_dir: str | None = None
    """Folder with local copies of the data sets, such as DATA_DIR/cais/mmlu. null reads the hub."""
    tasks_dir: str | None = None
    """Folder with your own tasks of lm-evaluation-harness, as YAML files. null adds none."""
    lighteval: Lighteval = field(default_factory=Lighteval)
    """How tasks of lighteval are run."""
    engine: str = "loop"
    """What writes the answers of lm-eval's tasks that generate: our own loop, transformers or vllm.
    Tasks that compare likelihoods are always read by our own loop, and lighteval's by its own.
    Interpreter and flags are those of eval.serving."""
    inference: InferenceGrid | None = None
    """The serving benchmark of our own eager loop. null measures none."""
    serving: Serving = field(default_factory=Serving)
    """Serving under load, by an engine. With engine=loop it is not measured."""

    def __post_init__(self) -> None:
        at_least("eval.batch_size", self.batch_size, 1)
        choice("eval.engine", self.engine, WRITERS)
        check_path("eval.data_dir", self.data_dir)
        check_path("eval.tasks_dir", self.tasks_dir)
        names = [task.display_name for task in self.tasks if isinstance(task, EvalTask)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"eval.tasks has {', '.join(twice)} more than once, which would count twice in "
                "accuracy kept; remove one"
            )

    def templated(self, task: EvalTask) -> bool:
        """Whether a task's prompts are rendered as conversations."""
        own = task.apply_chat_template
        return self.apply_chat_template if own is None else own
