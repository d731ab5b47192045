"""How many tokens a request reads and may write: one number, or lognormal by mean and p95."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kdwatts.config.serving import Workload
from kdwatts.metrics.student_t import to_half_width


@dataclass(frozen=True)
class Lognormal:
    """Lengths whose logarithm is normal. With sigma 0 they are all the same."""

    mu: float
    """Mean of the natural logarithm of the tokens."""
    sigma: float
    """Standard deviation of the same."""

    def draw(self, draw: np.random.Generator) -> int:
        """One length in whole tokens, at least 1."""
        return max(1, round(math.exp(self.mu + self.sigma * draw.standard_normal())))


def lognormal(setting: str, mean: int, p95: int | None) -> Lognormal:
    """The lognormal lengths of this mean and 95th percentile, both in tokens.

    With z the normal's 95 % quantile, mean = exp(mu + sigma^2/2) and p95 = exp(mu + z sigma) give
    sigma^2/2 - z sigma + ln(p95/mean) = 0. Of its two roots the smaller one is taken: the other
    has its p95 from a few huge lengths.

    Raises ValueError for a p95 that no lognormal of this mean has: above mean x exp(z^2/2).
    """
    if p95 is None:
        return Lognormal(math.log(mean), 0.0)
    z = to_half_width(1.0, confidence=0.9)  # Half of what holds 90 % leaves 5 % above.
    rest = z * z - 2 * math.log(p95 / mean)
    if rest < 0:
        most = math.floor(mean * math.exp(z * z / 2))
        raise ValueError(
            f"eval.serving.workload.{setting}_p95={p95} is more than a lognormal with the mean "
            f"{setting}={mean} can have; give at most {most}"
        )
    sigma = z - math.sqrt(rest)
    return Lognormal(math.log(mean) - sigma * sigma / 2, sigma)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of its answer, cut to what fits."""

    prompt: Lognormal
    output: Lognormal
    most_prompt: int | None
    """Tokens of the longest prompt; None without a limit."""
    most_together: int | None
    """Tokens of prompt and answer together; None without a limit."""

    def draw(self, draw: np.random.Generator) -> tuple[int, int, bool]:
        """Tokens of one prompt and of its answer, and whether one of them was cut."""
        prompt, output = self.prompt.draw(draw), self.output.draw(draw)
        kept_prompt = prompt if self.most_prompt is None else min(prompt, self.most_prompt)
        kept_output = output
        if self.most_together is not None:
            kept_output = min(output, self.most_together - kept_prompt)
        return kept_prompt, kept_output, (kept_prompt, kept_output) != (prompt, output)

    def clipped_share(self, *, seed: int = 0, draws: int = 10_000) -> float:
        """Share of requests, 0 to 1, whose prompt or answer is cut, over so many seeded draws."""
        draw = np.random.default_rng(seed)
        return sum(self.draw(draw)[2] for _ in range(draws)) / draws


def lengths_of(
    workload: Workload, *, max_positions: int | None, text_tokens: int | None = None
) -> Lengths:
    """The lengths of a workload for a context of `max_positions` tokens. None is not known.

    A prompt leaves room for the mean answer, and an answer takes what its prompt leaves. Where the
    means do not fit, the workload cannot be asked at all. `text_tokens` is the length of the text
    that prompts are cut from: none is longer.

    Raises ValueError where the mean lengths exceed the context, and as `lognormal` does.
    """
    mean_prompt, mean_output = workload.prompt_tokens, workload.output_tokens
    if max_positions is not None and mean_prompt + mean_output > max_positions:
        raise ValueError(
            f"eval.serving.workload.prompt_tokens={mean_prompt} and "
            f"eval.serving.workload.output_tokens={mean_output} together exceed the context of "
            f"{max_positions} tokens; shorten one of them"
        )
    room = None if max_positions is None else max_positions - mean_output
    limits = [limit for limit in (room, text_tokens) if limit is not None]
    return Lengths(
        lognormal("prompt_tokens", mean_prompt, workload.prompt_tokens_p95),
        lognormal("output_tokens", mean_output, workload.output_tokens_p95),
        most_prompt=min(limits, default=None),
        most_together=max_positions,
    )
