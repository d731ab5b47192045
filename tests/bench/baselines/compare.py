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
"""Characters that are shown of either side."""


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
        """Take up one value of both: an integer is no float, and text no number."""
        self.num_values += 1
        if type(before) is type(after) and (before == after or before != before != after != after):
            return
        if type(before) is type(after) and self._is_close(_number(before), _number(after)):
            self.num_close += 1
            return
        self.differences.append(f"{place}: {_change(before, after)}")

    def _is_close(self, before: float | None, after: float | None) -> bool:
        if not self.within or before is None or after is None:
            return False
        return math.isclose(before, after, rel_tol=self.within, abs_tol=0)


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
        are_there = [path.is_file() for path in paths]
        if not all(are_there):
            found.num_values += 1
            gone = "new" if are_there[1] else "missing"
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
    told = len(found.differences) + found.num_close
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
    if told == len(found.differences) + found.num_close:
        found.differences.append(f"{name}: the same values in another order or form")


def _compare_rows(
    found: Findings, name: str, before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    """Rows are told by what they are `of` where they say so, else by their number."""
    if all(len({row.get("of") for row in rows}) == len(rows) > 1 for rows in (before, after)):
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
            found.differences.append(f"{place}: {_change(one, other)}")


def _number(value: Any) -> float | None:
    """The value as a number, also where a table has it as text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _change(before: Any, after: Any) -> str:
    """Both sides in one line; of long ones what stands where they begin to differ."""
    sides = [
        side if isinstance(side, str) else json.dumps(side, ensure_ascii=False)
        for side in (before, after)
    ]
    first = next(
        (index for index, (one, other) in enumerate(zip(*sides, strict=False)) if one != other),
        min(map(len, sides)),
    )
    start = max(0, first - LONGEST // 2) if max(map(len, sides)) > LONGEST else 0
    one, other = (_cut(side, start) for side in sides)
    return f"from {one} to {other}"


def _cut(text: str, start: int) -> str:
    """A stretch of a long text."""
    end = start + LONGEST
    head, tail = "..." * bool(start), "..." * (end < len(text))
    return f"{head}{text[start:end]}{tail}".replace("\n", " ")
