"""Text of a hub as files on this disk, for nodes without a network: fetched once, then only read.

Only the hub knows which files hold the first rows of a data set. So the list of files is kept
beside the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdwatts.config.data import TextSource
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime.fingerprint import fingerprint

LISTS_NAME = "kdwatts"
"""Folder of the lists below HF_HOME."""
_AGAIN = "run the command with until=prefetch where there is a network, with the same HF_HOME"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<commit>[^/]+)/(?P<name>.+)")


@dataclass(frozen=True)
class FetchedText:
    """The files of a source that are on this disk, in the order in which a stream reads them."""

    repo: str
    commit: str
    builder: str
    """The reader of these files: parquet, json, csv or text."""
    files: list[str]
    is_whole: bool
    """Whether these are all files of the split. Else they are the first ones."""
    schema: int = SCHEMA


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE, or a variable like it, forbids to ask a hub."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def home_dir() -> Path:
    """The folder HF_HOME, where models, tokenizers and data of a hub are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME)


def fetch(source: TextSource, limit: int | None) -> tuple[FetchedText, int]:
    """The files with the first `limit` rows of a source, now on this disk, and their size in bytes.

    Only parquet files state how many rows they have: other files are all fetched. Files that an
    earlier request listed are fetched too, since another run may need the last of them.
    """
    from datasets import load_dataset_builder
    from huggingface_hub import hf_hub_download

    builder = load_dataset_builder(source.path, source.name, revision=source.revision)
    by_split: Any = builder.config.data_files or {}
    if source.split_read not in by_split:
        raise ValueError(
            f"data.source.split={source.split_read} does not exist; {source.path} has "
            f"{', '.join(map(str, by_split))}; choose one of them"
        )
    found = [_HUB_FILE.fullmatch(str(url)) for url in by_split[source.split_read]]
    assert found and all(found), f"{source.path}: its files do not lie on the hub"
    path = _list_path(source)
    num_listed = len(read_json(path)["files"]) if path.is_file() else 0
    names: list[str] = []
    repo = commit = ""
    num_bytes = num_rows = 0
    for match in found:
        assert match
        if limit is not None and num_rows >= limit and len(names) >= num_listed:
            break
        repo, commit, name = match["repo"], match["commit"], match["name"]
        file = Path(hf_hub_download(repo, name, repo_type="dataset", revision=commit))
        num_bytes += file.stat().st_size
        num_rows += _num_rows(file)
        names.append(name)
    kept = FetchedText(repo, commit, str(builder.name), names, len(names) == len(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(kept))
    return kept, num_bytes


def commit_of(source: TextSource) -> str:
    """The commit at which a source is read now, as the hub or the disk states it."""
    if is_pinned(source):
        assert source.revision
        return source.revision
    if is_offline():
        return _kept(source).commit
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(source.path, revision=source.revision).sha
    assert commit
    return commit


def is_pinned(source: TextSource) -> bool:
    """Whether the source's revision is a commit, which always holds the same bytes."""
    return _COMMIT.fullmatch(source.revision or "") is not None


def rows(source: TextSource, commit: str) -> Iterator[dict[str, Any]]:
    """The rows of a source at a commit, in the hub's order. Offline, they come from fetched files.

    Raises RuntimeError offline when the source was not fetched, or when more rows are asked for
    than were fetched.
    """
    from datasets import load_dataset

    if not is_offline():
        yield from load_dataset(
            source.path, source.name, split=source.split_read, revision=commit, streaming=True
        )
        return
    from huggingface_hub import hf_hub_download

    kept = _kept(source)
    if kept.commit != commit:
        raise RuntimeError(
            f"data.source.path={source.path} is read at commit {commit}, but HF_HOME={home_dir()} "
            f"now holds commit {kept.commit}, which another run has fetched; run the command again"
        )
    files = [
        hf_hub_download(
            kept.repo, name, repo_type="dataset", revision=kept.commit, local_files_only=True
        )
        for name in kept.files
    ]
    yield from load_dataset(kept.builder, data_files=files, split="train", streaming=True)
    if not kept.is_whole:
        raise RuntimeError(
            f"data.source.path={source.path}: HF_HOME={home_dir()} holds only its first "
            f"{len(kept.files)} files, but more rows are needed; {_AGAIN}"
        )


def _kept(source: TextSource) -> FetchedText:
    """The list of files of a source that was fetched; RuntimeError where it was not."""
    path = _list_path(source)
    if not path.is_file():
        raise RuntimeError(
            f"data.source.path={source.path} is not in HF_HOME={home_dir()}, and HF_HUB_OFFLINE "
            f"forbids to fetch it; {_AGAIN}"
        )
    return FetchedText(**read_json(path))


def _list_path(source: TextSource) -> Path:
    place = [source.path, source.name, source.split_read, source.revision]
    return home_dir() / LISTS_NAME / f"{fingerprint(place)}.json"


def _num_rows(path: Path) -> int:
    """Rows of a parquet file; 0 of any other, so that no limit is ever reached by it."""
    if path.suffix != ".parquet":
        return 0
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).metadata.num_rows
