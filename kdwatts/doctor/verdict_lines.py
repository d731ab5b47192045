"""Verdicts as lines of a page."""

from __future__ import annotations

import textwrap

from kdwatts.records.doctor_record import DoctorRecord, Verdict

UNKNOWN = "-"
"""Stands for a verdict where there is none."""

_INDENT = 13
"""Columns of the verdict's word and what is before it."""


def lines_of(verdict: Verdict, *, width: int = 100) -> str:
    """What was found, what it was held against, and what to do: a few lines."""
    said = f"{verdict.name.replace('_', ' ')}: {verdict.found}"
    if verdict.against:
        said += f" (held against {verdict.against})"
    first = f"  {verdict.verdict or UNKNOWN:<{_INDENT - 3}} "
    lines = _wrapped(said, first, width)
    if verdict.remedy:
        lines += _wrapped(verdict.remedy, f"{'':{_INDENT}}-> ", width)
    return "\n".join(lines)


def heading(chapter: str) -> str:
    """The line above a chapter's verdicts."""
    return f"\n{chapter.capitalize()}"


def summary(record: DoctorRecord) -> str:
    """How many verdicts of each kind there are, and which are not right."""
    counts = ", ".join(f"{record.count(kind)} {kind}" for kind in ("right", "attention", "wrong"))
    told = f"\n{counts}; {sum(v.verdict is None for v in record.verdicts)} without a verdict."
    wrong = [one.name.replace("_", " ") for one in record.verdicts if one.verdict == "wrong"]
    if wrong:
        told += f" Wrong: {', '.join(wrong)}."
    return told


def _wrapped(text: str, first: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
