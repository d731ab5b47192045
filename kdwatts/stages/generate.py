"""The text that the teacher writes and the student is taught on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.experiment import Config
from kdwatts.config.generation import Generate
from kdwatts.data.prompts import corpus_prompts
from kdwatts.data.shards import NO_TARGET, TokenShards, write_shards
from kdwatts.memory.generation_budget import num_prompts_of
from kdwatts.models.load import load_model, pair_tokenizer, source_fingerprint
from kdwatts.models.quantization import on_device
from kdwatts.runtime import interrupt
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.teacher import check_vocabularies
from kdwatts.stages.work import Work, end_tokens, frozen_dtype, shared_rows, teacher_source
from kdwatts.teacher.decoding import keep_texts, read_texts, uniform_draws, write_text
from kdwatts.training.autocast import autocast

log = logging.getLogger(__name__)

NAME = "generate"
VERSION = 1


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the text depend on.

    Training seeds and the batch size are not part of it.
    """
    generate = _generate(config)
    prompt_tokens, new_tokens = generate.sizes(config.training.sequence_length)
    return {
        "teacher": source_fingerprint(teacher_source(config)),
        "vocabulary": shared_rows(config),
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "piece_tokens": config.training.sequence_length,
        "num_prompts": num_prompts_of(config.paradigm, config.training),
        "temperature": generate.temperature,
        "top_p": generate.top_p,
        "seed": generate.seed,
        "precision": config.training.precision,
    }


def _generate(config: Config) -> Generate:
    assert config.paradigm.generate, "Paradigm fills it in where a model writes"
    return config.paradigm.generate


def build(work: Work) -> None:
    """Have the teacher continue every prompt, and write its text as token shards.

    The window counts what it wrote, end tokens included. Finished batches are in the scratch
    folder, so a build that was stopped continues from there.
    """
    config = work.config
    generate, asked = _generate(config), settings(config)
    check_vocabularies(config)
    shards = TokenShards(work.inputs["shards"])
    prompts = corpus_prompts(
        shards,
        prompt_tokens=asked["prompt_tokens"],
        piece_tokens=asked["piece_tokens"],
        num_prompts=asked["num_prompts"],
    )
    note_attempt(work)
    with work.meter.window("load"):
        teacher = on_device(
            load_model(teacher_source(config), dtype=frozen_dtype(config)), work.device
        )
        tokenizer = pair_tokenizer(config.model)
    ends = end_tokens(tokenizer, teacher)
    texts = {
        place: text
        for path in work.scratch_dir.glob("texts-*.npz")
        for (place,), text in read_texts(path).items()
    }
    if texts:
        log.info("generate: resumed after %d/%d prompts", len(texts), len(prompts))
    # The longest first: neighbours are of one length, and what does not fit fails at once.
    missing = sorted(prompts.keys() - texts.keys(), key=lambda place: (-len(prompts[place]), place))
    for start in range(0, len(missing), generate.batch_size):
        places = missing[start : start + generate.batch_size]
        with autocast(config.training.precision, work.device):
            written = write_text(
                teacher,
                [prompts[place] for place in places],
                [uniform_draws([generate.seed, place], asked["new_tokens"]) for place in places],
                end_ids=ends,
                vocabulary=asked["vocabulary"],
                temperature=generate.temperature,
                top_p=generate.top_p,
                writer="teacher",
            )
        batch = dict(zip(places, written, strict=True))
        keep_texts(
            work.scratch_dir / f"texts-{places[0]}.npz",
            {(place,): text for place, text in batch.items()},
        )
        texts |= batch
        work.window.tokens += sum(map(len, written))
        log.info("generate: %d/%d prompts", len(texts), len(prompts))
        interrupt.stop_if_requested(f"{len(texts)} of {len(prompts)} prompts are written")
    write_shards(
        work.out_dir,
        (
            document(prompts[place], texts[place], ends=ends, end_id=tokenizer.eos_token_id)
            for place in prompts
        ),
        shard_tokens=config.data.shard_tokens,
        source={**shards.index["source"], "written_by": teacher_source(config).path},
    )


def document(
    prompt: NDArray[np.int64], text: NDArray[np.int64], *, ends: Sequence[int], end_id: int
) -> NDArray[np.uint32]:
    """A prompt as context and the written text as targets, closed by an end token, uint32 [L].

    Where a text was cut off, the end token is no target: the student would learn to stop in the
    middle.
    """
    parts = [prompt.astype(np.uint32) | NO_TARGET, text.astype(np.uint32)]
    if int(text[-1]) not in ends:
        parts.append(np.array([end_id], dtype=np.uint32) | NO_TARGET)
    return np.concatenate(parts)
