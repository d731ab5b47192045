"""The text that the teacher writes and the student is taught on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
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
from kdwatts.serving.text_requests import Sampling, TextRequest, seed_of
from kdwatts.serving.writing import write_texts
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.teacher import check_vocabularies
from kdwatts.stages.work import Work, end_tokens, frozen_dtype, shared_rows, teacher_source
from kdwatts.stages.writers import engine_writer, writer_key
from kdwatts.teacher.decoding import keep_texts, read_texts, uniform_draws, write_text
from kdwatts.training.autocast import autocast

log = logging.getLogger(__name__)

NAME = "generate"
VERSION = 1


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the text depend on.

    Training seeds and the batch size are not part of it. An engine is: its name, version and flags.
    Raises ValueError for an engine that is not installed.
    """
    generate = _generate(config)
    by_engine = {}
    if generate.engine != "loop":
        # Texts of our own loop keep the keys that they had before there was another way.
        teacher = teacher_source(config)
        by_engine = {"engine": writer_key(config, generate.engine, "teacher", teacher)}
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
        **by_engine,
    }


def _generate(config: Config) -> Generate:
    assert config.paradigm.generate, "Paradigm fills it in where a model writes"
    return config.paradigm.generate


Prompts = Mapping[int, NDArray[np.int64]]
"""Place of a prompt in the corpus to its tokens, int64 [L]."""
Texts = dict[int, NDArray[np.int64]]
"""Place of a prompt to the text that the teacher wrote after it, int64 [L]."""


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
    texts: Texts = {
        place: text
        for path in work.scratch_dir.glob("texts-*.npz")
        for (place,), text in read_texts(path).items()
    }
    if texts:
        log.info("generate: resumed after %d/%d prompts", len(texts), len(prompts))
    # The longest first: neighbours are of one length, and what does not fit fails at once.
    missing = sorted(prompts.keys() - texts.keys(), key=lambda place: (-len(prompts[place]), place))

    def keep(batch: Texts) -> None:
        """Put finished texts where a later attempt finds them."""
        path = work.scratch_dir / f"texts-{next(iter(batch))}.npz"
        keep_texts(path, {(place,): text for place, text in batch.items()})
        texts.update(batch)
        work.window.tokens += sum(map(len, batch.values()))
        log.info("generate: %d/%d prompts", len(texts), len(prompts))

    def look() -> None:
        interrupt.stop_if_requested(f"{len(texts)} of {len(prompts)} prompts are written")

    write = _by_loop if generate.engine == "loop" else _by_engine
    ends = write(work, asked, {place: prompts[place] for place in missing}, keep, look)
    source = {**shards.index["source"], "written_by": teacher_source(config).path}
    if engine := asked.get("engine"):
        source["written_with"] = f"{engine['name']} {engine['version']}"
    end_id = pair_tokenizer(config.model).eos_token_id
    write_shards(
        work.out_dir,
        (document(prompts[place], texts[place], ends=ends, end_id=end_id) for place in prompts),
        shard_tokens=config.data.shard_tokens,
        source=source,
    )


def _by_loop(
    work: Work,
    asked: Mapping[str, Any],
    prompts: Prompts,
    keep: Callable[[Texts], None],
    look: Callable[[], None],
) -> list[int]:
    """Write by our own loop, batch by batch. The end tokens of the teacher."""
    config = work.config
    generate = _generate(config)
    with work.meter.window("load"):
        teacher = on_device(
            load_model(teacher_source(config), dtype=frozen_dtype(config)), work.device
        )
        tokenizer = pair_tokenizer(config.model)
    ends, missing = end_tokens(tokenizer, teacher), list(prompts)
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
        keep(dict(zip(places, written, strict=True)))
        look()
    return ends


def _by_engine(
    work: Work,
    asked: Mapping[str, Any],
    prompts: Prompts,
    keep: Callable[[Texts], None],
    look: Callable[[], None],
) -> list[int]:
    """Have an engine write, and keep texts as they end, a batch in a file. The end tokens.

    This process never loads the teacher. The window `load` holds the start of the engine, and
    `stop` its end.
    """
    config = work.config
    generate, teacher = _generate(config), teacher_source(config)
    finished: Texts = {}

    def take(request: TextRequest, ids: list[int]) -> None:
        finished[request.place] = np.array(ids, dtype=np.int64)
        if len(finished) == generate.batch_size:
            keep_finished()

    def keep_finished() -> None:
        if finished:
            keep(finished)
            finished.clear()

    def keep_and_look() -> None:
        if interrupt.requested():
            keep_finished()
        look()

    with ExitStack() as stack:
        with work.meter.window("load"):
            writer = stack.enter_context(
                engine_writer(work, generate.engine, "teacher", teacher, config.model.tokenizer)
            )
        try:
            write_texts(
                writer.server,
                [
                    TextRequest(
                        place,
                        prompt.tolist(),
                        asked["new_tokens"],
                        seed=seed_of(generate.seed, place),
                    )
                    for place, prompt in prompts.items()
                ],
                Sampling(
                    end_ids=writer.end_ids,
                    vocabulary=asked["vocabulary"],
                    rows=teacher.architecture.vocab_size,
                    temperature=generate.temperature,
                    top_p=generate.top_p,
                ),
                at_once=generate.batch_size,
                silence_s=writer.silence_s,
                take=take,
                look=keep_and_look,
            )
        except RuntimeError as error:
            raise RuntimeError(f"generate: {error}") from error
        finally:
            keep_finished()
        with work.meter.window("stop"):
            stack.close()
        return writer.end_ids


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
