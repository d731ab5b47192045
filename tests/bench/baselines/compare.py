"""Where two baselines differ: file by file, and in a file value by value or line by line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

NOTHING = "(nothing)"
LONGEST = 160
"""Characters of a value that are shown of either side."""


@dataclass
class Findings:
    """What a comparison found of one part."""

    within: float = 0.0
    """Relative difference of two numbers that is let pass."""
    num_values: int = 0
    num_close: int = 0
    """Numbers that are not equal and within `within`."""
    differences: list[str] = field(default_factory=list)

    def look(self, place: str, before: Any, after: Any) -> None:
        """Take up one value of both."""
        self.num_values += 1
        if before == after and type(before) is type(after):
            return
        numbers = _number(before), _number(after)
        if None not in numbers and self._is_close(*numbers):  # type: ignore[arg-type]
            return
        self.differences.append(f"{place}: from {_shown(before)} to {_shown(after)}")

    def _is_close(self, before: float, after: float) -> bool:
        if math.isnan(before) and math.isnan(after):
            return True
        if before == after or not math.isclose(before, after, rel_tol=self.within, abs_tol=0):
            return before == after
        self.num_close += 1
        return True


def compare(
    before_dir: Path, after_dir: Path, *, within: float = 0.0, without: Sequence[str] = ()
) -> Findings:
    """What differs between two folders; files whose name fits a pattern of `without` are passed."""
    found = Findings(within)
    names = sorted({*_files(before_dir), *_files(after_dir)})
    for name in names:
        if any(fnmatch(name, pattern) for pattern in without):
            continue
        paths = before_dir / name, after_dir / name
        missing = [path.is_file() for path in paths]
        if not all(missing):
            found.num_values += 1
            gone = "new" if missing[1] else "missing"
            found.differences.append(f"{name}: the file is {gone}")
            continue
        before, after = (path.read_bytes() for path in paths)
        if before == after:
            found.num_values += before.count(b"\n")
            continue
        _compare_texts(found, name, before.decode(), after.decode())
    return found


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _compare_texts(found: Findings, name: str, before: str, after: str) -> None:
    if name.endswith(".json"):
        _compare_values(found, name, json.loads(before), json.loads(after))
    elif name.endswith(".jsonl"):
        _compare_rows(
            found, name, *([json.loads(x) for x in t.split("\n") if x] for t in (before, after))
        )
    elif name.endswith(".csv"):
        _compare_rows(found, name, *(list(csv.DictReader(io.StringIO(t))) for t in (before, after)))
    else:
        _compare_lines(found, name, before.split("\n"), after.split("\n"))
    if not any(line.startswith(f"{name}") for line in found.differences) and not found.num_close:
        found.differences.append(f"{name}: the same values in another order or form")


def _compare_rows(
    found: Findings, name: str, before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    """Rows are told by what they are `of` where they say so, else by their number."""
    if any("of" in row for row in before):
        sides = [{row["of"]: row for row in rows} for rows in (before, after)]
    else:
        sides = [{f"row {number}": row for number, row in enumerate(r, 1)} for r in (before, after)]
    _compare_values(found, name, *sides)


def _compare_values(found: Findings, place: str, before: Any, after: Any) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            sides = (side.get(key, NOTHING) for side in (before, after))
            _compare_values(found, f"{place}, {key}", *sides)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            sides = (s[index] if index < len(s) else NOTHING for s in (before, after))
            _compare_values(found, f"{place}[{index}]", *sides)
    else:
        found.look(place, before, after)


def _compare_lines(found: Findings, name: str, before: list[str], after: list[str]) -> None:
    found.num_values += len(before)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for kind, from_index, from_end, to_index, to_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        gone, come = before[from_index:from_end], after[to_index:to_end]
        for offset in range(max(len(gone), len(come))):
            one = gone[offset] if offset < len(gone) else NOTHING
            other = come[offset] if offset < len(come) else NOTHING
            place = f"{name}, line {from_index + offset + 1}"
            found.differences.append(f"{place}: from {_shown(one)} to {_shown(other)}")


def _number(value: Any) -> float | None:
    """The value as a number, also where a table has it as text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"
