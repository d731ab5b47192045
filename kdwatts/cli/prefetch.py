"""`until=prefetch`: what a run needs of a hub, brought to this disk where there is a network.

Nothing is computed, loaded or measured, and no GPU is needed: it is for the login node of a cluster
whose compute nodes reach nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdwatts.config.data import TextSource
from kdwatts.config.evaluation import EvalTask
from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.data import hub
from kdwatts.data.local_rows import local_files
from kdwatts.evaluation.lm_eval import fetch_data
from kdwatts.evaluation.lm_tasks import is_shipped
from kdwatts.models.access import hub_errors_in_one_sentence
from kdwatts.models.hub_files import MODEL_FILES, SUBFOLDERS, TOKENIZER_FILES
from kdwatts.models.load import check_readable, load_tokenizer, local_dir
from kdwatts.stages.shards import parts_of


@dataclass
class Needs:
    """What the runs of a command need of hubs, each once, and what of theirs is local."""

    models: dict[str, ModelSource] = field(default_factory=dict)
    tokenizers: dict[tuple[str, str | None], str] = field(default_factory=dict)
    """Hub id and revision of each to the licence of its pair; of `models` it is in `licences`."""
    licences: dict[str, str] = field(default_factory=dict)
    texts: dict[str, tuple[TextSource, int | None]] = field(default_factory=dict)
    """With the number of rows that are enough; None for all."""
    tasks: dict[str, EvalTask] = field(default_factory=dict)
    tasks_dirs: dict[str, str | None] = field(default_factory=dict)
    """Where a task of one's own is looked for."""
    local: list[str] = field(default_factory=list)

    @property
    def is_local(self) -> bool:
        return not (self.models or self.tokenizers or self.texts or self.tasks)


def prefetch(configs: Sequence[Config]) -> Iterator[str]:
    """Fetch what the runs need of hubs; a line of what lies where as soon as it does.

    Raises RuntimeError, one sentence, for what cannot be fetched.
    """
    needs = Needs()
    for config in configs:
        _add(needs, config)
    for name in sorted(set(needs.local)):
        yield f"{name}: local, nothing to fetch"
    if needs.is_local:
        yield "this command needs nothing from a hub"
        return
    if hub.is_offline():
        tokenizers = [path for path, _ in needs.tokenizers]
        names = [*needs.models, *tokenizers, *needs.texts, *needs.tasks]
        raise RuntimeError(
            f"until=prefetch would fetch {', '.join(dict.fromkeys(names))}, and the variable "
            "HF_HUB_OFFLINE forbids that; unset it for this command"
        )
    yield from _fetch(needs)
    yield f"for jobs on nodes without a network, set: HF_HOME={hub.home_dir()} HF_HUB_OFFLINE=1"


def _fetch(needs: Needs) -> Iterator[str]:
    # The client warns of each of its five tries; one sentence follows the last.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for (path, revision), licence in needs.tokenizers.items():
        with hub_errors_in_one_sentence(
            path, page=path, revision=revision, licence=licence, fetching=True
        ):
            directory, num_bytes = _snapshot(path, revision, TOKENIZER_FILES)
            # Asks for whatever a job will ask for: the cache keeps what the hub has not got, too.
            load_tokenizer(path, revision=revision)
        yield f"tokenizer {path}: {_size(num_bytes)} in {directory}"
    for path, source in needs.models.items():
        licence, revision = needs.licences[path], source.revision
        with hub_errors_in_one_sentence(
            path, page=path, revision=revision, licence=licence, fetching=True
        ):
            directory, num_bytes = _snapshot(path, revision, MODEL_FILES)
            # Quantising takes a GPU, which who fetches need not have.
            check_readable(replace(source, quantization=None))
        yield f"model {path}: {_size(num_bytes)} in {directory}"
    for path, (source, limit) in needs.texts.items():
        with hub_errors_in_one_sentence(source.path, page=f"datasets/{source.path}", fetching=True):
            kept, num_bytes = hub.fetch(source, limit)
        whole = "" if kept.is_whole else f", enough for {limit:,} rows"
        yield f"data {path}: {len(kept.files)} files, {_size(num_bytes)}{whole}"
    for name, task in needs.tasks.items():
        with hub_errors_in_one_sentence(f"what {name} asks", page=None, fetching=True):
            if task.harness == "lm_eval":
                fetch_data(task, needs.tasks_dirs[name])
            else:
                for dataset in task.datasets:
                    _snapshot(dataset, None, ["*"], repo_type="dataset")
        yield f"task {name}: its questions are in the cache of data sets"


def _add(needs: Needs, config: Config) -> None:
    """Note what one run needs."""
    pair, evaluation = config.model, config.eval
    reads_teacher = (
        config.paradigm.needs_teacher
        or pair.student.init_from_teacher is not None
        or bool(evaluation.tasks)
        or evaluation.inference is not None
        or evaluation.serving.is_measured
    )
    sources = [pair.student, *([pair.teacher] if pair.teacher and reads_teacher else [])]
    paths = [source.path for source in sources if source.path is not None]
    for path in dict.fromkeys([pair.tokenizer, *paths]):
        if local_dir(path):
            needs.local.append(path)
        else:
            needs.tokenizers[path, pair.revision_of_tokenizer(path)] = pair.licence
    for source in sources:
        if source.path is not None and local_dir(source.path) is None:
            needs.models[source.path] = source
            needs.licences[source.path] = pair.licence
    for part in parts_of(config.data):
        if local_files(part.source.path):
            needs.local.append(part.source.path)
        else:
            _add_text(needs, part.source)
    for task in evaluation.tasks:
        if is_shipped(task.name) or evaluation.data_dir:
            needs.local.append(task.name)
        else:
            needs.tasks[task.name] = task
            needs.tasks_dirs[task.name] = evaluation.tasks_dir


def _add_text(needs: Needs, source: TextSource) -> None:
    """Note the rows that are read of a source, or as many as another run reads if these are more.

    A number of documents is no limit: to draw them, all are looked at.
    """
    limit = source.num_rows
    parts = (source.path, source.name, source.split_read, source.revision)
    name = " ".join(part for part in parts if part)
    _, known = needs.texts.get(name, (source, 0))
    enough = None if limit is None or known is None else max(limit, known)
    needs.texts[name] = source, enough


def _snapshot(
    path: str, revision: str | None, files: list[str], *, repo_type: str = "model"
) -> tuple[Path, int]:
    """The folder of a repository's files that match, and their bytes."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        path,
        revision=revision,
        repo_type=repo_type,
        allow_patterns=files,
        ignore_patterns=SUBFOLDERS if repo_type == "model" else None,
    )
    found = [path for path in Path(folder).iterdir() if any(map(path.match, files))]
    return Path(folder), sum(path.stat().st_size for path in found)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"
