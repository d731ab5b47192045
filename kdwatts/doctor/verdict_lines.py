"""Verdicts as lines of a page."""

from __future__ import annotations

import shutil
import socket
import sys
import textwrap

from kdwatts import __version__
from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import DoctorRecord, Verdict
from kdwatts.telemetry.host import cpu_name

UNKNOWN = "-"
"""Stands for a verdict where there is none."""

_INDENT = 13
"""Columns of the verdict's word and what is before it."""

_WIDTH, _LEAST_WIDTH = 100, 40
"""Columns of a page."""


def page_width() -> int:
    """Columns of a page: those of the terminal, within bounds, where there is one."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    return max(_LEAST_WIDTH, min(_WIDTH, columns))


def title(patient: Patient, seconds: float, *, width: int = _WIDTH) -> str:
    """The first line of a page: what is examined, by what, and how long that may take."""
    gpu, others = patient.gpu, len(patient.gpus) - 1
    what = f"{gpu.name}, {gpu.uuid}" if gpu else f"{cpu_name()}, without a GPU"
    rest = f" (the first of {others + 1} GPUs)" if others > 0 else ""
    said = (
        f"kdwatts {__version__} examines {socket.gethostname()}: {what}{rest}; pair "
        f"{patient.config.model.name}; at most {seconds / 60:.3g} min"
    )
    return "\n".join(_wrapped(said, "", width))


def lines_of(verdict: Verdict, *, width: int = _WIDTH) -> str:
    """What was found, what it was held against, and what to do: a few lines."""
    said = f"{verdict.name.replace('_', ' ')}: {verdict.found}"
    first = f"  {verdict.verdict or UNKNOWN:<{_INDENT - 3}} "
    lines = _wrapped(said, first, width)
    if verdict.against:
        lines += _wrapped(f"held against {verdict.against}", f"{'':{_INDENT}}", width)
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
