"""Rows of local files: of one file, of the files in a folder, or of those that match a pattern."""

from __future__ import annotations

import glob
import json
import logging
import lzma
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kdwatts.runtime.fingerprint import known_sha256
from kdwatts.runtime.paths import resolve_dir

log = logging.getLogger(__name__)

Row = tuple[str, dict[str, Any]]
"""Where a row stands, as `file:row` counted from 1, and its fields."""

LOCAL_SUFFIXES = (
    ".txt", ".txt.xz", ".jsonl", ".jsonl.xz", ".json", ".json.xz", ".parquet",
)  # fmt: skip
_GIVE = f"give a file that ends in one of {', '.join(LOCAL_SUFFIXES)}"


def check_there(path: str) -> None:
    """Raise ValueError for a path that looks local and does not exist.

    Patterns are not searched.
    """
    place = resolve_dir(path)
    if place.exists() or glob.has_magic(str(place)):
        return
    if path.startswith(("tiny:", "/", ".", "~", "$")) or path.endswith(LOCAL_SUFFIXES):
        raise ValueError(f"data.source.path={path} does not exist on this machine; check the path")


def local_files(path: str) -> list[Path] | None:
    """The files that `data.source.path` names, ordered by name. None for a hub id.

    For a folder they are the files of a known kind at any depth. Hidden files and linked folders
    are left out, which is logged once.

    Raises ValueError for a path that looks local and does not exist, and for files of an unknown
    kind or of several kinds.
    """
    place = resolve_dir(path)
    if place.is_file():
        found = [place]
    elif place.is_dir():
        found = _files_below(place, path)
    elif glob.has_magic(str(place)):
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        folders = [file.name for file in found if file.is_dir()]
        if folders and "**" not in path:
            _warn_unread(path, len(folders), "folders", folders[0], "give /** for what they hold")
        found = [file for file in found if _is_file(file, path)]
    else:
        check_there(path)
        return None
    if not found:
        raise ValueError(f"data.source.path={path} holds no file of text; {_GIVE}")
    kinds: dict[str, Path] = {}
    for file in found:
        if not file.name.endswith(LOCAL_SUFFIXES):
            raise ValueError(f"data.source.path={file} is a file of an unknown kind; {_GIVE}")
        kinds.setdefault(kind_of(file), file)
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise ValueError(
            f"data.source.path={path} names files of several kinds, such as {first.name} and "
            f"{second.name}; give a pattern for one kind, such as {place}/*{first.suffix}"
        )
    return found


def _files_below(folder: Path, path: str) -> list[Path]:
    """The files of a known kind in a folder at any depth, by name; what else it holds is said."""

    def refuse(error: OSError) -> None:
        raise ValueError(
            f"data.source.path={path}: {error.filename} cannot be opened ({error.strerror}); make "
            "it readable, or give a pattern without it"
        )

    found: list[Path] = []
    unread: dict[str, list[str]] = {"files": [], "hidden files": [], "links to folders": []}
    for at, folders, names in os.walk(folder, onerror=refuse):
        parts = Path(at).relative_to(folder).parts
        for name in names:
            is_text = name.endswith(LOCAL_SUFFIXES)
            if any(part.startswith(".") for part in (*parts, name)):
                unread["hidden files"] += [name] * is_text
            elif _is_file(Path(at, name), path):
                found += [Path(at, name)] * is_text
                unread["files"] += [name] * (not is_text)
        unread["links to folders"] += [n for n in folders if os.path.islink(os.path.join(at, n))]
    for what, names in unread.items():
        if names:
            _warn_unread(
                path,
                len(names),
                what,
                min(names),
                f"only files that end in one of {', '.join(LOCAL_SUFFIXES)} are read",
            )
    return sorted(found)


def _is_file(file: Path, path: str) -> bool:
    """Whether it is a file; a link to nothing is refused, since a file is missing."""
    if file.is_symlink() and not file.exists():
        raise ValueError(
            f"data.source.path={path}: {file} is a link to a file that does not exist; repair the "
            "link or remove it"
        )
    return file.is_file()


@cache
def _warn_unread(path: str, count: int, what: str, name: str, instead: str) -> None:
    """Say once that a path holds more than what is read of it."""
    log.warning(
        "data.source.path=%s: %s are left out (%d, such as %s); %s",
        path,
        what,
        count,
        name,
        instead,
    )


@cache
def _warn_empty(file: Path) -> None:
    log.warning("%s has no rows", file)


def kind_of(file: Path) -> str:
    """How a file is read: txt, jsonl, json or parquet."""
    return file.name.removesuffix(".xz").rpartition(".")[2]


def digests(files: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file's bytes. Plans ask for it again and again."""
    return [known_sha256(file) for file in files]


def read_rows(files: Sequence[Path]) -> Iterator[Row]:
    """The rows of files, one file after the other.

    Raises ValueError, with file and row, for content that does not match the file's name.
    """
    for file in files:
        is_empty = True
        try:
            for row in _READERS[kind_of(file)](file):
                is_empty = False
                yield row
        except (UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
            raise ValueError(
                f"{file} cannot be read as the kind of file that its name says ({error}); repair "
                "the file"
            ) from None
        if is_empty:
            _warn_empty(file)


def _opened(file: Path) -> Any:
    return lzma.open(file, "rb") if file.suffix == ".xz" else file.open("rb")


def _text_rows(file: Path) -> Iterator[Row]:
    """One row, the whole text, its line ends as `\\n`."""
    with _opened(file) as opened:
        text = opened.read().decode("utf-8-sig")
    yield f"{file}:1", {"text": text.replace("\r\n", "\n").replace("\r", "\n")}


def _line_rows(file: Path) -> Iterator[Row]:
    """A row a line; blank lines hold none and are counted."""
    with _opened(file) as opened:
        for number, line in enumerate(opened, start=1):
            if not line.isspace():
                yield _row(file, number, _parsed(f"{file}:{number}", line, "line"))


def _json_rows(file: Path) -> Iterator[Row]:
    """The rows of one list, the one row of an object, or a row a line in spite of the name."""
    with _opened(file) as opened:
        content = opened.read()
    if content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        for number, value in enumerate(_parsed(str(file), content, "file"), start=1):
            yield _row(file, number, value)
        return
    try:
        whole = json.loads(content)
    except ValueError:
        yield from _line_rows(file)
        return
    if isinstance(whole, dict) and (field := _list_of_rows(whole)):
        raise ValueError(
            f"{file} holds one object, whose field {field!r} has the rows; save only that list, or "
            "name the file .jsonl if the object is a row"
        )
    yield _row(file, 1, whole)


def _list_of_rows(found: dict[str, Any]) -> str | None:
    """The field of an object that holds rows: its only list of objects that are no turns."""
    lists = [
        name
        for name, value in found.items()
        if isinstance(value, list)
        and value
        and all(isinstance(one, dict) and not one.keys() & {"role", "from"} for one in value)
    ]
    return lists[0] if len(lists) == 1 else None


def _parsed(place: str, content: bytes, what: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"{place}: this is not JSON ({error}); repair the {what}") from None


def _row(file: Path, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise ValueError(
            f"{file}:{number}: the row holds {type(value).__name__}, not an object; repair the row"
        )
    return f"{file}:{number}", value


def _parquet_rows(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", value
    except pa.ArrowException as error:
        raise ValueError(
            f"{file} cannot be read as parquet after row {number} ({error}); repair the file"
        ) from None


_READERS = {
    "txt": _text_rows,
    "jsonl": _line_rows,
    "json": _json_rows,
    "parquet": _parquet_rows,
}
