"""Rows of local files: of one file, of those in a folder, or of those that a pattern matches."""

from __future__ import annotations

import glob
import json
import logging
import lzma
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kdwatts.fingerprint import known_sha256
from kdwatts.paths import resolve_dir

log = logging.getLogger(__name__)

Row = tuple[str, dict[str, Any]]
"""Where a row stands, as `file:row` counted from 1, and its fields."""

LOCAL_SUFFIXES = (
    ".txt", ".txt.xz", ".jsonl", ".jsonl.xz", ".json", ".json.xz", ".parquet",
)  # fmt: skip
_GIVE = f"give one of {', '.join(LOCAL_SUFFIXES)}"


def local_files(path: str) -> list[Path] | None:
    """The files that `data.source.path` names, in the order of their names; None for a hub id.

    Of a folder they are those of a known kind at any depth, hidden ones left out. Raises ValueError
    for what looks local and is not there, and for files of an unknown kind or of several.
    """
    place = resolve_dir(path)
    if place.is_file():
        found = [place]
    elif place.is_dir():
        shown = [file for file in sorted(place.rglob("*")) if _is_shown(file, place)]
        found = [file for file in shown if file.name.endswith(LOCAL_SUFFIXES)]
        if others := [file.name for file in shown if not file.name.endswith(LOCAL_SUFFIXES)]:
            _warn_unread(path, len(others), others[0])
    elif glob.has_magic(str(place)):
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        found = [file for file in found if file.is_file()]
    elif path.startswith(("tiny:", "/", ".", "~", "$")) or path.endswith(LOCAL_SUFFIXES):
        raise ValueError(f"data.source.path={path}: there is no such file; check the path")
    else:
        return None
    if not found:
        raise ValueError(f"data.source.path={path}: there is no file of text in it; {_GIVE}")
    kinds: dict[str, Path] = {}
    for file in found:
        if not file.name.endswith(LOCAL_SUFFIXES):
            raise ValueError(f"data.source.path={file}: unknown kind of file; {_GIVE}")
        kinds.setdefault(kind_of(file), file)
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise ValueError(
            f"data.source.path={path} names files of several kinds, {first.name} and "
            f"{second.name}; give a pattern of one kind, such as {place}/*{first.suffix}"
        )
    return found


def _is_shown(file: Path, folder: Path) -> bool:
    names = file.relative_to(folder).parts
    return file.is_file() and not any(name.startswith(".") for name in names)


@cache
def _warn_unread(path: str, count: int, name: str) -> None:
    """Say once that a folder holds more than what is read of it."""
    log.warning(
        "data.source.path=%s: %d files are not read, such as %s; read are %s",
        path,
        count,
        name,
        ", ".join(LOCAL_SUFFIXES),
    )


def kind_of(file: Path) -> str:
    """How a file is read: txt, jsonl, json or parquet."""
    return file.name.removesuffix(".xz").rpartition(".")[2]


def digests(files: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file's bytes, which plans ask for again and again."""
    return [known_sha256(file) for file in files]


def read_rows(files: Sequence[Path]) -> Iterator[Row]:
    """The rows of files, one file after the other.

    Raises ValueError, with file and row, for what is not of the kind that the name says.
    """
    for file in files:
        try:
            yield from _READERS[kind_of(file)](file)
        except (UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
            raise ValueError(
                f"{file}: cannot be read as its name says ({error}); mend the file"
            ) from None


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
    """The rows of one list, or of a file that has a row a line in spite of its name."""
    with _opened(file) as opened:
        content = opened.read()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _line_rows(file)
        return
    for number, value in enumerate(_parsed(str(file), content, "file"), start=1):
        yield _row(file, number, value)


def _parsed(place: str, content: bytes, what: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error}); mend the {what}") from None


def _row(file: Path, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise ValueError(
            f"{file}:{number}: holds {type(value).__name__}, not an object; mend the row"
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
            f"{file}: cannot be read as parquet after row {number} ({error}); mend the file"
        ) from None


_READERS = {
    "txt": _text_rows,
    "jsonl": _line_rows,
    "json": _json_rows,
    "parquet": _parquet_rows,
}
