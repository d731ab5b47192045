"""On-policy text: the student continues prompts from its own rows, and the teacher judges it.

Generalised knowledge distillation (GKD, arXiv 2306.13649, algorithm 1). Texts are written for a
block of steps at once.
"""

# B sequences of a batch, T positions.

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdwatts.config.generation import Generate, OnPolicy
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.data.prompts import row_prompt
from kdwatts.teacher.decoding import keep_texts, read_texts, uniform_draws, write_text
from kdwatts.telemetry.meter import Meter
from kdwatts.training.autocast import autocast
from kdwatts.training.parallel import collected, num_ranks, rank
from kdwatts.training.text_rows import TextRows

Place = tuple[int, int]
"""Step and row."""


@dataclass(frozen=True)
class Prompt:
    """What is to be continued, and a random number for each token that may be written."""

    tokens: NDArray[np.int64]
    draws: NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """A prompt and what the student wrote after it."""

    tokens: NDArray[np.int64]
    prompt_tokens: int


@dataclass(frozen=True)
class Writer:
    """The student as it writes."""

    model: nn.Module
    end_ids: Collection[int]
    """Tokens that end a text."""
    vocabulary: int
    """Tokens that it may write."""
    precision: str


class Rollouts:
    """What the student wrote for the steps of one block, and the batches made of it.

    A row is the student's with probability `fraction`, else the corpus's. Which it is, and what is
    drawn, depends on seed, step and row alone. A block is written by the weights at its first step.
    So a checkpoint inside a block needs it, and `save` puts it beside.
    """

    def __init__(
        self,
        writer: Writer,
        text: TextRows,
        generate: Generate,
        on_policy: OnPolicy,
        *,
        seed: int,
        directory: Path,
        meter: Meter,
    ) -> None:
        self._writer, self._text = writer, text
        self._generate, self._on_policy = generate, on_policy
        self._prompt_tokens, self._new_tokens = generate.sizes(text.sequence_length)
        self._seed, self._directory, self._meter = seed, directory, meter
        self._steps = range(0)
        self._block: dict[Place, Written] = {}

    def prepare(self, step: int) -> None:
        """Have the texts of the step's block at hand. They are written at the block's first step.

        The window `generate` is open meanwhile. Its tokens are those written. Ranks share the work,
        and each gets all texts.
        """
        if step in self._steps:
            return
        start = step - step % self._on_policy.rollout_every
        stop = min(start + self._on_policy.rollout_every, self._text.schedule.num_steps)
        kept = self._path(start)
        self._block = _read(kept) if kept.is_file() else self._write_block(range(step, stop))
        self._steps = range(start, stop)

    def write(self, batch: Batch, step: int) -> Batch:
        """The batch of a prepared step, with the student's text in the student's rows."""
        assert step in self._steps, f"step {step} was not prepared"
        return with_text(batch, step, self._block)

    def save(self) -> None:
        """Keep the block for a checkpoint that will be made inside it. The first rank does this.

        The block before it stays too: the old checkpoint counts until the new one is complete.
        """
        if not self._steps or rank():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(self._steps.start)
        if not path.is_file():
            _keep(path, self._block)
        for older in sorted(self._directory.glob("rollout-*.npz"))[:-2]:
            older.unlink()

    def _path(self, start: int) -> Path:
        return self._directory / f"rollout-{start:08d}.npz"

    def _prompts(self, steps: range) -> dict[Place, Prompt]:
        """What is to be continued for these steps."""
        text = self._text
        prompts: dict[Place, Prompt] = {}
        for step in steps:
            for row in text.schedule.rows_of_step(step).tolist():
                key = (self._seed, self._generate.seed, step, row)
                coin, *draws = uniform_draws(key, 1 + self._new_tokens)
                if coin >= self._on_policy.fraction:
                    continue
                tokens = row_prompt(
                    text.shards,
                    row,
                    sequence_length=text.sequence_length,
                    prompt_tokens=self._prompt_tokens,
                )
                if tokens is not None:
                    prompts[step, row] = Prompt(tokens, np.array(draws))
        return prompts

    def _write_block(self, steps: range) -> dict[Place, Written]:
        prompts, model = self._prompts(steps), self._writer.model
        # Neighbours of one length: fewer pads.
        places = sorted(prompts, key=lambda place: (-len(prompts[place].tokens), place))
        mine = places[rank() :: num_ranks()]
        was_training = model.training
        # Gradient checkpointing keeps no cache of keys and values while training.
        model.eval()
        part: dict[Place, Written] = {}
        with (
            self._meter.window("generate") as window,
            # Every step has another shape: compiled code would be compiled over and over.
            torch.compiler.set_stance("force_eager"),
        ):
            for start in range(0, len(mine), self._generate.batch_size):
                chunk = mine[start : start + self._generate.batch_size]
                texts = self._continue([prompts[place] for place in chunk])
                part |= dict(zip(chunk, texts, strict=True))
            texts_of_ranks = collected(_as_lists(part))
            block = {place: text for each in texts_of_ranks for place, text in _of_lists(each)}
            window.tokens += sum(len(text.tokens) - text.prompt_tokens for text in block.values())
        model.train(was_training)
        return block

    def _continue(self, prompts: Sequence[Prompt]) -> list[Written]:
        writer = self._writer
        with autocast(writer.precision, next(writer.model.parameters()).device):
            texts = write_text(
                writer.model,
                [prompt.tokens for prompt in prompts],
                [prompt.draws for prompt in prompts],
                end_ids=writer.end_ids,
                vocabulary=writer.vocabulary,
                temperature=self._generate.temperature,
                top_p=self._generate.top_p,
                writer="student",
            )
        return [
            Written(np.concatenate([prompt.tokens, text]), len(prompt.tokens))
            for prompt, text in zip(prompts, texts, strict=True)
        ]


def targets_kept(corpus_per_row: float, new_tokens: int, *, fraction: float) -> float:
    """Share of the corpus's targets that remain when the student writes `fraction` of the rows.

    Its texts count at full length, with at most as many targets as the row had. Early ends lower
    the share.
    """
    return 1 - fraction + fraction * min(1.0, new_tokens / corpus_per_row)


def with_text(batch: Batch, step: int, block: dict[Place, Written]) -> Batch:
    """The batch with the written rows that the block has for this step in the place of its own.

    Only what was written is a target, its end token included. A text that ends before its row does
    is followed by padding, which is neither target nor valid.
    """
    found = {
        index: block[step, row]
        for index, row in enumerate(batch.rows.tolist())
        if (step, row) in block
    }
    if not found:
        return batch
    input_BT, target_BT, valid_BT = (
        tensor.clone() for tensor in (batch.input_BT, batch.target_BT, batch.text_BT)
    )
    position_BT = None if batch.position_BT is None else batch.position_BT.clone()
    for index, written in found.items():
        tokens = torch.from_numpy(written.tokens)
        num_inputs, first = len(tokens) - 1, written.prompt_tokens - 1
        input_BT[index] = 0
        input_BT[index, :num_inputs] = tokens[:-1]
        target_BT[index] = IGNORE
        target_BT[index, first:num_inputs] = tokens[first + 1 :]
        valid_BT[index] = False
        valid_BT[index, :num_inputs] = True
        if position_BT is not None:
            position_BT[index] = torch.arange(position_BT.shape[1])
    return replace(
        batch,
        input_BT=input_BT,
        target_BT=target_BT,
        valid_BT=valid_BT,
        position_BT=position_BT,
    )


def _keep(path: Path, block: dict[Place, Written]) -> None:
    texts = {(*place, written.prompt_tokens): written.tokens for place, written in block.items()}
    keep_texts(path, texts)


def _read(path: Path) -> dict[Place, Written]:
    return {
        (step, row): Written(tokens, prompt_tokens)
        for (step, row, prompt_tokens), tokens in read_texts(path).items()
    }


def _as_lists(texts: dict[Place, Written]) -> list[list[Any]]:
    """Texts as ranks send them to each other, in JSON."""
    return [[*place, text.prompt_tokens, text.tokens.tolist()] for place, text in texts.items()]


def _of_lists(sent: list[list[Any]]) -> Iterator[tuple[Place, Written]]:
    """The texts that another rank sent."""
    for step, row, prompt_tokens, tokens in sent:
        yield (step, row), Written(np.array(tokens, dtype=np.int64), prompt_tokens)
