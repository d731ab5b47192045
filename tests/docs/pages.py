"""A page's blocks, and whether its commands print what the page says that they print.

A `bash` block holds commands that are typed in order, in one folder. A `text` block after it is
what is printed; a line `...` in it stands for any lines. A block whose first line is a comment with
a file's name is a file that the reader writes. A comment before a `bash` block says that a hub, a
GPU or a cluster is needed (`composed only`), or that nothing is run at all (`not run`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = "/home/you"
"""Stands on pages for the folder in which a reader begins."""

_FENCE = re.compile(
    r"(?:^<!-- (composed only|not run): [^\n]+ -->\n)?^```(\w*)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)\n")
_BETWEEN = "\x1e"
"""Printed before what each block prints."""

_KEY = re.compile(r"(?<![\w.])(?=[a-f]*\d)[0-9a-f]{12,64}\b")
_NUMBER = re.compile(r"(?<![\w.,])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_PREFIX = re.compile(r"(?<=# )[nµmkMG](?=(?:J|Wh?|g)\b)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    mark: str | None
    """`composed only` or `not run`."""
    line: int
    """Of the page, counted from 1, at which it begins."""

    @property
    def file_name(self) -> str | None:
        """The file that the reader writes with it; None where it is none."""
        match = _FILE_NAME.match(self.text)
        return match[1] if match and self.language not in ("bash", "text") else None

    @property
    def commands(self) -> list[str]:
        """The lines of a bash block, without comments; lines that end in a backslash are joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip("# ")]


def blocks(page: str) -> list[Block]:
    """The blocks of a page. Raises ValueError for a fence that has no end, or that is indented."""
    found = [
        Block(match[2], match[3], match[1], page.count("\n", 0, match.start(2)) + 1)
        for match in _FENCE.finditer(page)
    ]
    if page.count("```") != 2 * len(found):
        raise ValueError("a fence is indented or has no end; begin each in the first column")
    return found


@dataclass(frozen=True)
class Printed:
    """What a bash block printed, and what its page says."""

    block: Block
    text: str
    expected: str | None


def run_page(
    page: str, folder: Path, environment: Mapping[str, str] | None = None
) -> list[Printed]:
    """What each unmarked bash block of a page prints in a folder that stands for the reader's.

    One shell runs all, so that a `cd` or an `export` holds for what follows. Raises RuntimeError
    where a command fails.
    """
    found = blocks(page)
    written = folder.parent / f"{folder.name}.files"
    written.mkdir()
    script = ["set -e -o pipefail", "exec 2>&1"]
    for number, block in enumerate(found):
        if block.file_name:
            (written / str(number)).write_text(block.text)
            target = shlex.quote(block.file_name)
            script.append(f"mkdir -p $(dirname {target})\ncp {written}/{number} {target}")
        elif block.language == "bash" and block.mark is None:
            script.append(f"printf '{_BETWEEN}{number}\\n'\n{block.text}")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env={**os.environ, **_reader(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    texts = {}
    for part in done.stdout.split(_BETWEEN)[1:]:
        number, _, text = part.partition("\n")
        texts[int(number)] = text
    if done.returncode:
        last = max(texts)
        raise RuntimeError(
            f"a command of the block at line {found[last].line} ended with {done.returncode}: "
            f"{texts[last]}"
        )
    return [Printed(found[n], text, _expected(found, n)) for n, text in texts.items()]


def _reader() -> dict[str, str]:
    """The environment in which `python` has kdwatts, and nothing is fetched."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    return {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def _expected(found: list[Block], number: int) -> str | None:
    """The text block that follows a bash block before any other command."""
    for block in found[number + 1 :]:
        if block.language == "text":
            return block.text
        if block.language == "bash":
            break
    return None


def masked(line: str, folder: Path | str = HOME) -> str:
    """A line without what differs from run to run: numbers, times, keys, widths, the folder."""
    line = _NUMBER.sub("#", _KEY.sub("#", line.replace(str(folder), HOME)))
    return " ".join(_PREFIX.sub("", line).split())


def difference(expected: str, printed: str, folder: Path | str = HOME) -> str | None:
    """The first line of a page that was not printed, and what was; None where all was."""
    lines = [masked(line, folder) for line in expected.strip("\n").splitlines()]
    said = "".join(f"{masked(line, folder)}\n" for line in printed.strip("\n").splitlines())
    patterns = [r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in lines]
    if re.fullmatch("".join(patterns), said):
        return None
    matching = (n for n in range(len(lines), -1, -1) if re.match("".join(patterns[:n]), said))
    most = next(matching)
    wanted = f"{lines[most]!r} was not" if most < len(lines) else "more than the page says was"
    return f"{wanted} printed; what was printed, masked:\n{said}"
