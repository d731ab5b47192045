"""Text that a model writes for the student to be taught on."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config.ranges import above_zero, at_least, between, choice

TEXTS = ("corpus", "teacher", "student")
WRITERS = ("loop", "transformers", "vllm")
"""What writes text: our own loop, or an engine that is started for it."""


@dataclass
class Generate:
    """How a model writes text: its prompts, and how its next tokens are drawn."""

    prompt_tokens: int | None = None
    """Tokens of plain text that a prompt takes. null takes a quarter of training.sequence_length.
    In a conversation the prompt is everything before the first answer; a longer one is left out."""
    new_tokens: int | None = None
    """Most tokens that are written after a prompt. null leaves room for the prompt and one closing
    token."""
    num_prompts: int | None = None
    """Prompts that the teacher continues (text=teacher). null takes as many as
    training.target_tokens needs if each text has full length."""
    batch_size: int = 64
    """Prompts that are continued at once. What is written does not depend on it."""
    temperature: float = 1.0
    """Sampling temperature. 1 draws from the model's own distribution. 0 takes the likeliest token
    each time."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that hold this share of the probability together (nucleus
    sampling). 1 draws from all."""
    seed: int = 0
    """Seed of what the teacher writes (text=teacher). All training seeds share one text."""
    engine: str = "loop"
    """What the teacher writes with (text=teacher): our own loop, transformers or vllm. Interpreter
    and flags are those of eval.serving. The engine, its version and its flags are in the text's
    key."""

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "num_prompts"):
            if getattr(self, name) is not None:
                at_least(f"paradigm.generate.{name}", getattr(self, name), 1)
        at_least("paradigm.generate.batch_size", self.batch_size, 1)
        at_least("paradigm.generate.temperature", self.temperature, 0)
        above_zero("paradigm.generate.top_p", self.top_p)
        between("paradigm.generate.top_p", self.top_p, 0, 1)
        at_least("paradigm.generate.seed", self.seed, 0)
        choice("paradigm.generate.engine", self.engine, WRITERS)

    def sizes(self, sequence_length: int) -> tuple[int, int]:
        """Tokens of a prompt and most tokens written after it, for rows of this length."""
        prompt = sequence_length // 4 if self.prompt_tokens is None else self.prompt_tokens
        prompt = max(1, prompt)
        rest = sequence_length - prompt - 1
        return prompt, rest if self.new_tokens is None else self.new_tokens


@dataclass
class OnPolicy:
    """How often the student writes text for the teacher to score (GKD, Agarwal et al. 2024)."""

    fraction: float = 0.5
    """Share of the rows that the student writes; the others come from the corpus. It is lambda of
    GKD."""
    rollout_every: int = 20
    """Steps whose rows are written at once, with the weights of the first of these steps. The text
    is at most so many steps old. A shorter energy window could not be measured."""

    def __post_init__(self) -> None:
        above_zero("paradigm.on_policy.fraction", self.fraction)
        between("paradigm.on_policy.fraction", self.fraction, 0, 1)
        at_least("paradigm.on_policy.rollout_every", self.rollout_every, 1)
