"""Names for content: the same settings and the same bytes give the same key on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

KEY_LENGTH = 16
"""Hexadecimal digits of a key: 64 bits, so a million artifacts collide with odds of 3e-8."""


def fingerprint(value: Any) -> str:
    """A key of 16 hexadecimal digits for a JSON value. The order of dictionaries does not count.

    Raises TypeError for anything JSON cannot hold, and ValueError for NaN, which equals nothing.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def stage_key(stage: str, version: int, settings: Mapping[str, Any], parents: list[str]) -> str:
    """The key of what `stage` builds from `settings` and the artifacts with the keys `parents`."""
    return fingerprint(
        {"stage": stage, "version": version, "settings": dict(settings), "parents": parents}
    )


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LARGE_BYTES = 1 << 24
"""From 16 MiB on, a process reads an unchanged file only once.

A smaller file is read each time. A second write within one tick of the file system's clock leaves
no trace but its bytes.
"""


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file. That of a large, unchanged file is remembered."""
    found = path.stat()
    if found.st_size < LARGE_BYTES:
        return sha256_file(path)
    return _sha256_once(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@cache
def _sha256_once(path: Path, device: int, inode: int, size: int, time_ns: int) -> str:
    del device, inode, size, time_ns
    return sha256_file(path)


def fingerprint_dir(directory: Path, *patterns: str) -> str:
    """A key for the names and bytes of the files in `directory` that match one of `patterns`.

    Raises ValueError when nothing matches, since an empty folder would equal every other one.
    """
    paths = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    if not paths:
        raise ValueError(
            f"fingerprint: no file matches {' or '.join(map(repr, patterns))} in {directory}; "
            "give a folder that holds one"
        )
    return fingerprint([[path.name, known_sha256(path)] for path in sorted(paths)])


def fingerprint_tree(directory: Path) -> str:
    """A key for the relative names and bytes of all files below `directory`, without hidden ones.

    Links are followed, also those to folders. Raises ValueError when there is no file, since an
    empty folder would equal every other one.
    """
    names = {path: path.relative_to(directory) for path in _files_below(directory)}
    shown = {
        path: name
        for path, name in names.items()
        if not any(part.startswith((".", "__pycache__")) for part in name.parts)
    }
    if not shown:
        raise ValueError(f"fingerprint: no file in {directory}; give a folder that holds one")
    return fingerprint(
        [[name.as_posix(), sha256_file(path)] for path, name in sorted(shown.items())]
    )


def _files_below(directory: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files of a folder at any depth; a link to a folder that it lies in is not gone into."""
    above = (*above, directory.resolve())
    for path in directory.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and path.resolve() not in above:
            yield from _files_below(path, above)
