"""A pair whose teacher has to be made before a run can read it."""

from __future__ import annotations

from kdwatts.config.pair import Pair
from kdwatts.runtime.paths import resolve_dir


def unmade_teacher(pair: Pair) -> str | None:
    """In which folder the pair's teacher is missing, and the command that makes it, in words.

    None where it is there, or published.
    """
    path = pair.teacher.path if pair.teacher else None
    if pair.made_by is None or path is None or resolve_dir(path).is_dir():
        return None
    return f"its teacher is in no folder {path} yet; `{pair.made_by}` makes it"
