"""What student and teacher are scored on, and what they serve."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.schema.checks import at_least, between


@dataclass
class InferenceGrid:
    """What the energy-per-token benchmark serves: the same for teacher and student."""

    batch_size: int = 8
    prompt_tokens: int = 64
    new_tokens: int = 32
    min_window_s: float = 2.0
    """A window repeats the work at least this long; shorter ones cannot be measured."""
    max_repeats: int = 10
    """Windows repeat, three times at least, until the 95 % interval is within 5 % of the mean."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "prompt_tokens", "new_tokens"):
            at_least(f"eval.inference.{name}", getattr(self, name), 1)
        at_least("eval.inference.min_window_s", self.min_window_s, 2.0)
        at_least("eval.inference.max_repeats", self.max_repeats, 3)


@dataclass
class EvalTask:
    name: str = MISSING
    """Task of the harness, or `tiny:NAME` for one that ships with the package."""
    primary_metric: str = MISSING
    chance: float | None = None
    """Score of guessing, for the chance-corrected ratio; None where it has no meaning."""
    num_fewshot: int = 0
    limit: int | None = None
    """First documents only, for smoke runs."""

    def __post_init__(self) -> None:
        at_least("eval.tasks.num_fewshot", self.num_fewshot, 0)
        if self.limit is not None:
            at_least("eval.tasks.limit", self.limit, 1)
        if self.chance is not None:
            between("eval.tasks.chance", self.chance, 0, 1)


@dataclass
class Eval:
    name: str = MISSING
    tasks: list[EvalTask] = field(default_factory=list)
    batch_size: int = 16
    apply_chat_template: bool = False
    inference: InferenceGrid | None = None

    def __post_init__(self) -> None:
        at_least("eval.batch_size", self.batch_size, 1)
