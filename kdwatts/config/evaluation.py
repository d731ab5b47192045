"""What student and teacher are scored on, and what they serve."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.config.ranges import at_least, between, choice
from kdwatts.runtime.paths import check_path

HARNESSES = ("lm_eval", "lighteval")
AXES = ("batch_sizes", "prompt_lengths", "new_lengths")
"""Of the serving grid."""


@dataclass
class InferenceGrid:
    """What the energy-per-token benchmark serves: the same for teacher and student.

    Every batch size with every prompt and new length; `point` is the one in metrics.json.
    """

    batch_sizes: list[int] = field(default_factory=lambda: [8])
    prompt_lengths: list[int] = field(default_factory=lambda: [64])
    """Tokens of each prompt."""
    new_lengths: list[int] = field(default_factory=lambda: [32])
    """Tokens written after it, greedily; the end token ends nothing."""
    prompts: str | None = None
    """A text file, or JSONL with `text`; null takes the corpus from its end."""
    min_window_s: float = 2.0
    """A window repeats the work at least this long; shorter ones cannot be measured."""
    max_repeats: int = 10
    """Windows repeat, three times at least, until the 95 % interval is within 5 % of the mean."""
    measurements: int = 3
    """Independent ones that the store keeps of what serves alike; a run makes one that is missing,
    and waits for none."""
    loop_point: list[int] | None = None
    """Batch, prompt and new length, of this grid, that metrics.json tells; null takes the largest
    batch and the middle lengths, of two middle ones the larger."""

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
    name: str = MISSING
    """Task or group of the harness or of `eval.tasks_dir`; `tiny:NAME` ships with the package."""
    primary_metric: str = MISSING
    harness: str = "lm_eval"
    """lm_eval or lighteval, whose tasks have names and metrics of their own."""
    chance: float | None = None
    """Score of guessing, for the chance-corrected ratio; None where it has no meaning."""
    num_fewshot: int = 0
    limit: int | None = None
    """First documents only, for smoke runs; of each child of a group."""
    datasets: list[str] = field(default_factory=list)
    """What it reads, by names on the hub; with eval.data_dir, folders of these names there."""
    apply_chat_template: bool | None = None
    """For this task alone; None does as eval.apply_chat_template."""

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
    """How tasks of lighteval are run: in a process of their own, on a saved model."""

    python: str | None = None
    """Interpreter that has lighteval; None is the one that runs kdwatts."""
    tasks_file: str | None = None
    """Python file with a TASKS_TABLE of one's own tasks."""

    def __post_init__(self) -> None:
        check_path("eval.lighteval.python", self.python)
        check_path("eval.lighteval.tasks_file", self.tasks_file)


@dataclass
class Eval:
    name: str = MISSING
    tasks: list[EvalTask] = field(default_factory=list)
    batch_size: int = 16
    apply_chat_template: bool = False
    """Whether prompts are rendered as conversations; the same for teacher and student."""
    data_dir: str | None = None
    """Folder of local copies of datasets, such as DATA_DIR/cais/mmlu; None reads the hub."""
    tasks_dir: str | None = None
    """Folder of lm-evaluation-harness tasks of one's own, as YAML files."""
    lighteval: Lighteval = field(default_factory=Lighteval)
    inference: InferenceGrid | None = None

    def __post_init__(self) -> None:
        at_least("eval.batch_size", self.batch_size, 1)
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
