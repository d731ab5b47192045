"""Whether the tasks' texts appear in the corpus that the student learns from."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.experiment import Config
from kdwatts.data import hub
from kdwatts.data.overlap import (
    Grams,
    Tally,
    TaskText,
    describe,
    index_texts,
    texts_in_tokens,
)
from kdwatts.data.shards import NO_TARGET, TokenShards
from kdwatts.data.workers import BATCH_CHARACTERS, Batch, Workers
from kdwatts.evaluation.lm_eval import task_texts
from kdwatts.models.load import pair_tokenizer, tokenizer_fingerprint
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.evaluate import task_sources, text_settings
from kdwatts.stages.work import Work

log = logging.getLogger(__name__)

NAME = "contamination"
VERSION = 2
WORDS = 2
"""As VERSION, also for corpora without documents that hold the tasks' texts: how words are read."""
REPORT_NAME = "contamination.json"
CHARACTERS_PER_TOKEN = 4
"""Near enough to tell how much work there is."""
_MARK = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
"""A word between signs, as in <|user|> or [INST]."""


def settings(config: Config) -> dict[str, Any]:
    """What a report depends on, besides the shards."""
    return {
        **gram_settings(config),
        # What could not be read without a network is worth another look with one.
        "is_offline": hub.is_offline(),
        "tokenizer": tokenizer_fingerprint(config.model),
    }


def gram_settings(config: Config) -> dict[str, Any]:
    """What is searched for: the tasks' texts, and how much of one is a hit."""
    return {
        "ngram": config.data.decontaminate.ngram,
        "words": WORDS,
        "tasks": [[task.name, task.harness] for task in config.eval.tasks],
        **text_settings(config),
    }


def build(work: Work) -> None:
    """Search every document of the shards for every task's texts, and write the report."""
    config = work.config
    note_attempt(work)
    tokenizer = pair_tokenizer(config.model)
    with work.meter.window("load_tasks"):
        grams, unread = eval_grams(config)
    tally = Tally()
    fixed = (tokenizer, _control_ids(tokenizer), grams)
    on_start = work.meter.look_for_children
    with Workers(texts_in_tokens, *fixed, stage="contamination", on_start=on_start) as workers:
        batches = _batches(TokenShards(work.inputs["shards"]))
        number = 0
        for _, results in workers.in_order(batches):
            for found in results:
                tally.count(number, found, grams)
                number += 1
    write_report(work.out_dir, config, tally, grams, unread)


def _batches(shards: TokenShards) -> Iterator[Batch[None]]:
    """The documents of the shards, in their order."""
    begins = shards.starts_between(0, shards.num_tokens)
    documents: list[NDArray[np.uint32]] = []
    size = 0
    for begin, end in pairwise([*begins.tolist(), shards.num_tokens]):
        documents.append(shards.read(begin, end) & ~NO_TARGET)
        size += CHARACTERS_PER_TOKEN * (end - begin)
        if size >= BATCH_CHARACTERS:
            yield None, documents, size
            documents, size = [], 0
    yield None, documents, size


def _control_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Tokens that are marks and no words: special ones, and added ones that are spelt like marks.

    Some templates' marks are not called special; and some tokenizers add words, or runs of blanks.
    """
    added = tokenizer.added_tokens_decoder.items()
    marks = {number for number, token in added if token.special or _MARK.fullmatch(token.content)}
    return np.asarray(sorted(marks | set(tokenizer.all_special_ids)), dtype=np.int64)


def eval_grams(config: Config) -> tuple[Grams, dict[str, str]]:
    """Runs of words of all tasks that can be read, and the reason for each that cannot."""
    unread: dict[str, str] = {}
    texts: list[TaskText] = []
    for task in config.eval.tasks:
        if task.harness != "lm_eval":
            unread[task.display_name] = f"{task.harness} reads its texts in a process of its own"
            continue
        try:
            found = task_texts(task, task_sources(config))
        # A report without one task is worth more than none, and says which it lacks.
        except (OSError, ValueError, RuntimeError) as error:
            first_line = (str(error).strip() or type(error).__name__).partition("\n")[0]
            unread[task.display_name] = f"its texts cannot be read here: {first_line}"
            continue
        texts.extend(TaskText(task.display_name, strings) for strings in found)
    return index_texts(texts, ngram=config.data.decontaminate.ngram), unread


def write_report(
    out_dir: Path, config: Config, tally: Tally, grams: Grams, unread: dict[str, str]
) -> None:
    """Write contamination.json: the counts of each task, and the documents that hold its texts.

    A document is named by its number in the shards, or by its id where it was left out of them.
    """
    wanted = config.data.decontaminate
    write_json(
        out_dir / REPORT_NAME,
        {
            "schema": SCHEMA,
            "mode": wanted.mode,
            "ngram": wanted.ngram,
            "num_documents": tally.num_documents,
            "num_documents_hit": tally.num_documents_hit,
            "tasks": describe(tally, grams, unread),
        },
    )


def copy_report(artifact_dir: Path, run_dir: Path) -> None:
    """Copy an artifact's report, if it has one, to the run's folder and log what is in it."""
    path = artifact_dir / REPORT_NAME
    if not path.is_file():
        return
    shutil.copyfile(path, run_dir / REPORT_NAME)
    report = read_json(path)
    log.info(
        "contamination: %d of %d documents %s; texts: %s",
        report["num_documents_hit"],
        report["num_documents"],
        "left out" if report["mode"] == "drop" else "hold evaluation texts",
        ", ".join(
            f"{task} unknown ({found['reason']})"
            if found["num_texts"] is None
            else f"{task} {found['num_texts_hit']}/{found['num_texts']}"
            for task, found in report["tasks"].items()
        ),
    )
