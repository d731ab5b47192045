"""All checks, one after the other, within the minutes that were given."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, isfinite

from kdwatts.doctor.patient import Check, Patient
from kdwatts.records.doctor_record import Verdict

Chapters = Mapping[str, Sequence[Check]]
"""Name of a chapter to its checks, in order."""


def examine(
    patient: Patient, chapters: Chapters, *, seconds: float, begin: Callable[[str], None]
) -> Generator[Verdict, None, None]:
    """The verdicts of all checks. `begin` is told the name of each check before it.

    A check has the part of the time left that it has of what all checks to come want, and never
    less than it needs. One for which too little is left is not made, and its verdict says so.
    A name that another verdict has gets a number.
    """
    until_s = time.monotonic() + seconds
    names: Counter[str] = Counter()
    left = [
        (
            chapter,
            replace(check, wants_s=0.0, least_s=0.0) if _only_says_so(check, patient) else check,
        )
        for chapter, checks in chapters.items()
        for check in checks
    ]
    while left:
        chapter, check = left[0]
        left_s = until_s - time.monotonic()
        share = check.wants_s / (sum(one.wants_s for _, one in left) or 1.0)
        left = left[1:]
        begin(check.name)
        if check.computes and patient.lacks_cuda:
            yield _without_cuda(chapter, check, patient)
            continue
        if left_s < check.least_s:
            yield _without_time(chapter, check, max(0.0, left_s))
            continue
        try:
            for verdict in check.look(patient, max(check.least_s, share * left_s)):
                names[verdict.name] += 1
                count = names[verdict.name]
                name = verdict.name if count == 1 else f"{verdict.name}_{count}"
                yield replace(_without_infinities(verdict), name=name, chapter=chapter)
        except Exception as error:  # Whatever a machine does to a check is what is looked for.
            yield _failed(chapter, check, error)


def _only_says_so(check: Check, patient: Patient) -> bool:
    return check.takes_no_time(patient) or (check.computes and patient.lacks_cuda)


def _without_infinities(verdict: Verdict) -> Verdict:
    """The verdict with null for a figure that is no number: `found` says what it was."""
    figures = {name: getattr(verdict, name) for name in ("value", "low", "high")}
    gone = {name: None for name, one in figures.items() if one is not None and not isfinite(one)}
    return replace(verdict, **gone)


def _without_cuda(chapter: str, check: Check, patient: Patient) -> Verdict:
    assert patient.gpu
    return Verdict(
        name=check.name.replace(" ", "_"),
        chapter=chapter,
        verdict=None,
        found=f"not looked at: torch cannot compute on {patient.gpu.name} here",
        remedy="install the torch for this driver, or give --gpu cpu",
    )


def _without_time(chapter: str, check: Check, left_s: float) -> Verdict:
    return Verdict(
        name=f"check_of_{check.name.replace(' ', '_')}",
        chapter=chapter,
        verdict=None,
        found=f"not looked at: it takes {ceil(check.least_s)} s, and {floor(left_s)} s were left",
        remedy="give more --minutes",
    )


def _failed(chapter: str, check: Check, error: Exception) -> Verdict:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return Verdict(
        name=f"check_of_{check.name.replace(' ', '_')}",
        chapter=chapter,
        verdict="wrong",
        found=f"the check failed: {said[:300]}",
        remedy="mend what it names; if that is kdwatts, report it",
    )
