"""Text that a model writes for the student to be taught on."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config.ranges import above_zero, at_least, between

TEXTS = ("corpus", "teacher", "student")


@dataclass
class Generate:
    """How the writer is prompted and drawn from: the teacher, or the student on its own policy."""

    prompt_tokens: int | None = None
    """Tokens of plain text that a prompt takes; of a conversation it takes all before the first
    answer, and one longer than this is left out. None is a quarter of training.sequence_length."""
    new_tokens: int | None = None
    """Most tokens written after a prompt; None leaves room for the prompt and one closing token."""
    num_prompts: int | None = None
    """For text=teacher; None takes as many as training.target_tokens needs at full length."""
    batch_size: int = 64
    """Prompts written to at once; what is written does not depend on it."""
    temperature: float = 1.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    seed: int = 0
    """For text=teacher, whose text all training seeds share."""

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "num_prompts"):
            if getattr(self, name) is not None:
                at_least(f"paradigm.generate.{name}", getattr(self, name), 1)
        at_least("paradigm.generate.batch_size", self.batch_size, 1)
        at_least("paradigm.generate.temperature", self.temperature, 0)
        above_zero("paradigm.generate.top_p", self.top_p)
        between("paradigm.generate.top_p", self.top_p, 0, 1)
        at_least("paradigm.generate.seed", self.seed, 0)

    def sizes(self, sequence_length: int) -> tuple[int, int]:
        """Tokens of a prompt and most tokens written after it, for rows of this length."""
        prompt = sequence_length // 4 if self.prompt_tokens is None else self.prompt_tokens
        prompt = max(1, prompt)
        rest = sequence_length - prompt - 1
        return prompt, rest if self.new_tokens is None else self.new_tokens


@dataclass
class OnPolicy:
    """How often the student writes what it is scored on."""

    fraction: float = 0.5
    """Share of rows that the student writes, the rest is the corpus's: lambda of GKD."""
    rollout_every: int = 20
    """Steps whose rows are written at once, by the weights of the first of them: the text is up to
    so many steps old, and a window of its energy is long enough to be measured."""

    def __post_init__(self) -> None:
        above_zero("paradigm.on_policy.fraction", self.fraction)
        between("paradigm.on_policy.fraction", self.fraction, 0, 1)
        at_least("paradigm.on_policy.rollout_every", self.rollout_every, 1)
