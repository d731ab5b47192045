"""What the system refuses, in the words of a sentence that says what to do."""

from __future__ import annotations

import errno
import re


def in_words(error: Exception) -> str:
    """The words of an error; of the system's, the path, what is amiss with it, and what to do."""
    if isinstance(error, UnicodeEncodeError):
        near = error.object[max(0, error.start - 20) : error.end + 20]
        return (
            f"{near!a} holds bytes that are no UTF-8; rename that folder, and run the command again"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return " ".join(str(error).split())
    found = str(error.strerror).lower()
    # A file is replaced as a whole: `.NAME.PID.tmp` is none that anybody asked for.
    path = re.sub(r"\.([^/]+)\.\d+\.tmp$", r"\1", str(error.filename2 or error.filename or ""))
    place = f"{path}: " if path else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}{found}; free space, or write to another disk"
    return f"{place}{found}; give a place that can be read and written"
