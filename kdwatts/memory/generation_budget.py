"""The plan of writing text: prompts, tokens, operations and memory, by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdwatts.config.paradigm import Paradigm
from kdwatts.config.training import Training
from kdwatts.memory.budget import GIB
from kdwatts.memory.model_shape import (
    cache_bytes_per_token,
    forward_flops_per_token,
    weights_bytes_of,
)
from kdwatts.memory.term_sizes import forward_work_bytes
from kdwatts.memory.workload import Workload


@dataclass(frozen=True)
class WritingBudget:
    """The most text that is written for one training run, and what this costs, estimated."""

    writer: str
    """teacher or student."""
    num_prompts: int
    prompt_tokens: int
    new_tokens: int
    pflop: float
    weights_gib: float
    cache_gib: float
    """Keys and values of one batch at full length."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are written at most."""
        return self.num_prompts * self.new_tokens


def num_prompts_of(paradigm: Paradigm, training: Training) -> int:
    """The number of prompts: as configured, or as many as the run's targets need at full length.

    The held-out loss needs some too. The corpus may have fewer, and texts may end early: training
    then reads the text more than once.
    """
    assert paradigm.generate, "Paradigm fills it in where a model writes"
    if paradigm.generate.num_prompts is not None:
        return paradigm.generate.num_prompts
    _, new_tokens = paradigm.generate.sizes(training.sequence_length)
    heldout_tokens = training.heldout_tokens if training.heldout_every else 0
    return math.ceil((training.target_tokens + heldout_tokens) / new_tokens)


def estimate_writing(workload: Workload) -> WritingBudget | None:
    """The text that the paradigm has a model write. None where it uses the corpus as it is.

    For a student's rows, all tokens of the corpus count as targets.
    """
    paradigm, training = workload.paradigm, workload.training
    if not paradigm.generate:
        return None
    prompt_tokens, new_tokens = paradigm.generate.sizes(training.sequence_length)
    if paradigm.text == "teacher":
        assert workload.pair.teacher
        writer, num_prompts = workload.pair.teacher, num_prompts_of(paradigm, training)
    else:
        assert paradigm.on_policy, "Paradigm fills it in where the student writes"
        writer, fraction = workload.pair.student, paradigm.on_policy.fraction
        per_row = (1 - fraction) * training.sequence_length + fraction * new_tokens
        num_prompts = math.ceil(fraction * training.target_tokens / per_row)
    length, shape = prompt_tokens + new_tokens, writer.architecture
    value_bytes = workload.value_bytes
    cache_bytes = cache_bytes_per_token(shape, value_bytes) * length
    return WritingBudget(
        writer=paradigm.text,
        num_prompts=num_prompts,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        pflop=forward_flops_per_token(shape, length) * length * num_prompts / 1e15,
        weights_gib=weights_bytes_of(writer, value_bytes) / GIB,
        cache_gib=cache_bytes * min(num_prompts, paradigm.generate.batch_size) / GIB,
    )


def writing_work_bytes_of(workload: Workload, writing: WritingBudget) -> float:
    """Bytes of a batch beside weights, keys and values.

    The cache has its full length from the start, and so has the mask of the prompts: a truth value
    for each token of a prompt and place of the cache, and the copy that attention adds. Beside it
    stands the largest of the prompts' forward pass, the keys and values of one block repeated for
    all query heads, and four copies of the next token's probabilities in float64.
    """
    assert workload.paradigm.generate
    source = workload.pair.student if writing.writer == "student" else workload.pair.teacher
    assert source
    shape, value_bytes = source.architecture, workload.value_bytes
    batch = min(writing.num_prompts, workload.paradigm.generate.batch_size)
    num_places = writing.prompt_tokens + writing.new_tokens
    mask = (1 + value_bytes) * batch * writing.prompt_tokens * num_places
    forward = forward_work_bytes(
        shape, tokens=batch * writing.prompt_tokens, value_bytes=value_bytes
    )
    repeated = 0
    if shape.num_heads > shape.num_kv_heads:
        repeated = 2 * shape.num_heads * shape.head_dim * value_bytes * batch * num_places
    return mask + max(forward, float(repeated), 4.0 * 8 * batch * shape.vocab_size)
