"""From text to token shards."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.data import Data, MixPart, TextSource
from kdwatts.config.experiment import Config, to_dict
from kdwatts.data import hub
from kdwatts.data.documents import Document, read_documents, source_files
from kdwatts.data.local_rows import digests, kind_of, local_files
from kdwatts.data.mix import PartSize, mixed
from kdwatts.data.overlap import Grams, Tally, encode_screened
from kdwatts.data.shards import (
    blocks_of,
    keep_shard,
    kept_shards,
    move_shards,
    write_index,
)
from kdwatts.data.subset import drawing
from kdwatts.data.workers import BATCH_CHARACTERS, Batch, Workers
from kdwatts.models.access import hub_errors_in_one_sentence
from kdwatts.models.load import pair_tokenizer, tokenizer_fingerprint
from kdwatts.runtime import interrupt
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.contamination import eval_grams, gram_settings, write_report
from kdwatts.stages.work import Work

log = logging.getLogger(__name__)

NAME = "shards"
VERSION = 8
CONVERSATIONS = 2
"""As VERSION, for sources of conversations alone."""
KEPT_NAME = "shards"
"""Folder of full shards in the scratch folder."""
BATCH_STEPS = 10_000
"""Rows that are read for one batch at most, drawn or not."""


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the shards depend on."""
    data = config.data
    return {
        "source": _source_settings(data.source) if data.source else None,
        "sources": [
            {
                "source": _source_settings(part.source),
                "weight": part.weight,
                "licence": part.licence,
                "num_documents": part.num_documents,
                "max_epochs": part.max_epochs,
            }
            for part in data.sources
        ],
        # The index states it.
        "licence": data.licence,
        "num_documents": data.num_documents,
        "fraction": data.fraction,
        "sample_seed": data.sample_seed,
        "shard_tokens": data.shard_tokens,
        "dropped": gram_settings(config) if data.decontaminate.mode == "drop" else None,
        "tokenizer": tokenizer_fingerprint(config.model),
    }


def _source_settings(source: TextSource) -> dict[str, Any]:
    """How a source is read, and its files by what they hold, wherever they lie."""
    files = source_files(source)
    settings = {**to_dict(source), "split": source.split_read}
    if not source.text_field:
        settings["conversations"] = CONVERSATIONS
    if files is None:
        return settings
    return {**settings, "path": digests(files), "kind": kind_of(files[0])}


def build(work: Work) -> None:
    """Tokenize the corpus into `work.out_dir`. The index says what each source gave.

    Full shards are in the scratch folder, with how far each source was read and at which commit. So
    a build that was stopped reads up to there without tokenizing, and continues to the same bytes.
    If a hub serves another commit by then, the build starts again.
    """
    data = work.config.data
    tokenizer = pair_tokenizer(work.config.model)
    parts = parts_of(data)
    note_attempt(work)
    kept_dir = work.scratch_dir / KEPT_NAME
    commits = [_commit(part.source) for part in parts]
    shards, progress = kept_shards(kept_dir)
    if progress and progress["commits"] != commits:
        log.warning(
            "shards: begun again, the sources were read at %s before and are read at %s now",
            *(progress["commits"], commits),
        )
        shutil.rmtree(kept_dir)
        shards, progress = [], None
    sizes = [PartSize() for _ in parts]
    if progress:
        sizes = [PartSize(**size) for size in progress["parts"]]
        log.info("shards: resumed after %d full shards", len(shards))
    screen = _screen(work.config, Tally(**progress["tally"]) if progress else Tally())
    weights = [part.weight for part in parts]
    on_start = work.meter.look_for_children
    fixed = (tokenizer, screen.grams)
    with Workers(encode_screened, *fixed, stage="shards", on_start=on_start) as workers:
        documents = mixed(
            [
                _encoded(_batches(part, commit, size.num_seen, data), workers, size, screen, share)
                for part, commit, size, share in zip(
                    parts,
                    commits,
                    sizes,
                    [weight / sum(weights) for weight in weights],
                    strict=True,
                )
            ],
            weights,
            sizes,
        )
        for block in blocks_of(documents, data.shard_tokens):
            progress = {
                "commits": commits,
                "parts": [asdict(size) for size in sizes],
                "tally": asdict(screen.tally),
            }
            shards.append(keep_shard(kept_dir, len(shards), block, progress))
            work.window.tokens += shards[-1]["tokens"]
            interrupt.stop_if_requested(f"{len(shards)} shards are written")
    if data.sources:
        _check_ending(parts, sizes)
    if screen.grams:
        write_report(work.out_dir, work.config, screen.tally, screen.grams, {})
    move_shards(kept_dir, work.out_dir, shards)
    write_index(
        work.out_dir,
        shards,
        source=_source_record(data),
        parts=[
            _part_record(part, commit) | asdict(size)
            for part, commit, size in zip(parts, commits, sizes, strict=True)
        ],
    )


def _check_ending(parts: list[MixPart], sizes: list[PartSize]) -> None:
    """Say which source ended the mix; raise ValueError when it is one that gave nothing."""
    ((part, size),) = ((p, s) for p, s in zip(parts, sizes, strict=True) if s.is_exhausted)
    if size.num_documents == 0:
        dropped = [f"{count} {reason}" for reason, count in sorted(size.num_dropped.items())]
        raise ValueError(
            f"data.sources: {part.source.path} gave no document to the mix "
            f"({', '.join([f'{size.num_seen} read', *dropped])}); check its path and fields and "
            "data.fraction, or leave it out"
        )
    log.info(
        "shards: the mix ended after %d documents of %s, which has no more",
        size.num_documents,
        part.source.path,
    )


def _commit(source: TextSource) -> str | None:
    """The commit at which a source of a hub is read; None for local files."""
    if local_files(source.path) is not None:
        return None
    page, revision = f"datasets/{source.path}", source.revision
    with hub_errors_in_one_sentence(
        f"data {source.path}", page=page, revision=revision, fetching=True
    ):
        commit = hub.commit_of(source)
    if not hub.is_pinned(source):
        log.warning(
            "data %s names no commit, and the hub may serve other text tomorrow under the same "
            "key; set data.source.revision=%s, the commit that is read now",
            source.path,
            commit,
        )
    return commit


@dataclass(frozen=True)
class _Screen:
    """What keeps documents with evaluation texts out; without grams, all pass."""

    grams: Grams | None
    tally: Tally


def _screen(config: Config, tally: Tally) -> _Screen:
    """Raises RuntimeError for a task whose texts cannot be read: it would be thought clean."""
    if config.data.decontaminate.mode != "drop":
        return _Screen(None, tally)
    grams, unread = eval_grams(config)
    if unread:
        reasons = "; ".join(f"{task}, {reason}" for task, reason in unread.items())
        raise RuntimeError(
            "data.decontaminate.mode=drop needs the texts of all tasks, and some cannot be read: "
            f"{reasons}; fetch them, leave these tasks out, or choose "
            "data.decontaminate.mode=report"
        )
    return _Screen(grams, tally)


def parts_of(data: Data) -> list[MixPart]:
    """The sources of a corpus. A corpus that is no mix has one."""
    if data.source:
        return [MixPart(data.source, 1.0, data.licence, num_documents=data.num_documents)]
    return data.sources


Step = Document | str | Exception
"""What reading comes to: a document to encode, why one is left out, or what ends it."""


def _steps(
    part: MixPart, commit: str | None, num_seen_before: int, data: Data
) -> Iterator[Document | str]:
    """The documents of a source that are drawn, and for each other one the reason why not.

    Those that were seen before are read again and passed over.
    """
    position = 0

    def read() -> Iterator[Document]:
        return read_documents(part.source, commit)

    draw = drawing(
        lambda: (document for document in read() if not document.is_blank),
        fraction=data.fraction,
        num_documents=part.num_documents,
        sample_seed=data.sample_seed,
    )
    for _ in range(part.max_epochs):
        is_drawn = draw()
        for document in read():
            position += 1
            # What cannot be learned from is no document: none is drawn in the place of another.
            reason = document.unfit
            if reason is None and not is_drawn(document):
                reason = "not_drawn"
            if position > num_seen_before:
                yield reason or document


def _batches(
    part: MixPart, commit: str | None, num_seen_before: int, data: Data
) -> Iterator[Batch[list[Step]]]:
    """The steps of a source in batches; what reading raises is the last step."""
    steps: list[Step] = []
    size = 0
    reading = _steps(part, commit, num_seen_before, data)
    while True:
        try:
            step = next(reading, None)
        except Exception as error:
            step = error
        if step is not None:
            steps.append(step)
        if isinstance(step, Document):
            size += sum(map(len, step.pieces))
        is_last = step is None or isinstance(step, Exception)
        if is_last or size >= BATCH_CHARACTERS or len(steps) >= BATCH_STEPS:
            yield steps, [one for one in steps if isinstance(one, Document)], size
            steps, size = [], 0
        if is_last:
            return


def _encoded(
    batches: Iterator[Batch[list[Step]]],
    workers: Workers,
    size: PartSize,
    screen: _Screen,
    share: float,
) -> Iterator[NDArray[np.uint32]]:
    """The drawn documents of a source as tokens; what is read and left out is counted in `size`.

    It is counted, and what reading raised is raised, when its turn comes: how far was read ahead
    has no part in it.
    """
    for steps, results in workers.in_order(batches, share=share):
        for step in steps:
            if isinstance(step, Exception):
                raise step
            size.num_seen += 1
            if isinstance(step, str):
                size.drop(step)
                continue
            found = next(results)
            is_hit = isinstance(found, dict)
            if screen.grams is not None:
                screen.tally.count(step.id if is_hit else "", found if is_hit else {}, screen.grams)
            if is_hit:
                size.drop("contaminated")
            elif len(found):
                yield found
            else:
                size.drop("empty")


def _part_record(part: MixPart, commit: str | None) -> dict[str, Any]:
    files = local_files(part.source.path)
    hashes = digests(files or [])
    return {
        "path": part.source.path,
        "name": part.source.name,
        "split": _split(part.source),
        "revision": part.source.revision,
        "commit": commit,
        "sha256": hashes[0] if len(hashes) == 1 else None,
        "files": [
            {"path": str(file), "sha256": sha256}
            for file, sha256 in zip(files or [], hashes, strict=True)
        ],
        "licence": part.licence,
        "weight": part.weight,
    }


def _split(source: TextSource) -> str | None:
    """The split that was read; local files have none."""
    return source.split_read if local_files(source.path) is None else None


def _source_record(data: Data) -> dict[str, Any]:
    if data.source:
        split = _split(data.source)
        return {**to_dict(data.source), "split": split, "licence": data.licence}
    paths = [part.source.path for part in data.sources]
    return {
        "path": " + ".join(paths),
        "sources": [to_dict(part) for part in data.sources],
        "licence": data.licence,
    }
