"""Which foreign runs are repeats of one method: their folders differ by a number alone.

A repeat is one more draw of the same method. It is no seed: number 1 of two methods have nothing
in common, so that they are never compared in pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from multirun_analysis.importer.known import paradigm_of

_SEED = re.compile(r"[ _.-]*seed[_-]?\d+", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(?<!\d)(?<!\d[.eE])(?<!\d[eE][+-])\d+$")
"""Not the end of 0.5, of 1e-4, or of a version such as 3.1."""
_GENERIC = ("model", "run", "repeat", "rep", "trial", "replica", "copy")
"""Words that a number may follow at once, as it may follow a paradigm's; another name may own it,
as qwen2 does."""
_SEPARATORS = " _-.#"


@dataclass(frozen=True)
class Repeat:
    """Where a run stands among those of its method."""

    setting: str
    """Its folder's name without what differs between repeats, such as `RESPONSE/MODEL`."""
    repeat: str | None
    """What differs, such as `1`; None where nothing says that it is one of several."""


def repeat_of(name: str) -> Repeat:
    """The method and the number in the name of a run's folder, below the folder of all runs."""
    *above, last = without_seed(name).split("/")
    if found := _LAST_NUMBER.search(last):
        stem = last[: found.start()].rstrip(_SEPARATORS)
        is_glued = found.start() > 0 and last[found.start() - 1] not in _SEPARATORS
        is_bare = not stem and bool(above)
        may_own = is_glued and paradigm_of(stem) is None and stem.lower() not in _GENERIC
        if is_bare or (stem and not may_own):
            return Repeat("/".join([*above, stem] if stem else above), found[0])
    return Repeat("/".join([*above, last]), None)


def repeats_by_pattern(names: Iterable[str], pattern: str) -> dict[str, Repeat]:
    """The same of each name by a pattern, whose group or whole match is what differs.

    A name that it does not match is a method of its own. Raises ValueError for a pattern that does
    not compile, has several groups, or matches no name.
    """
    asked = f"--repeat-pattern {pattern!r}"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{asked}: no regular expression ({error}); correct it") from None
    if compiled.groups > 1:
        raise ValueError(
            f"{asked}: has {compiled.groups} groups, and one may say what differs between repeats; "
            "write the others as (?:...)"
        )
    found = {name: _by_pattern(name, compiled) for name in names}
    if all(repeat.repeat is None for repeat in found.values()):
        raise ValueError(
            f"{asked}: matches none of {len(found)} folders, such as {next(iter(found), 'none')}; "
            "leave it out, or give one that matches what differs between repeats"
        )
    return found


def _by_pattern(name: str, pattern: re.Pattern[str]) -> Repeat:
    match = pattern.search(name)
    part = pattern.groups
    if match is None or not match[part]:
        return Repeat(without_seed(name), None)
    rest = f"{name[: match.start(part)].rstrip(_SEPARATORS)}{name[match.end(part) :]}"
    return Repeat(_tidied(without_seed(rest)) or name, match[part])


def without_seed(name: str) -> str:
    """The name of a method whose folders say a seed, which has a column of its own."""
    rest = _SEED.sub("", name)
    return name if rest == name else _tidied(rest) or name


def _tidied(name: str) -> str:
    """The path without separators at the ends of its folders, and without empty ones."""
    return "/".join(filter(None, (folder.strip(_SEPARATORS) for folder in name.split("/"))))
