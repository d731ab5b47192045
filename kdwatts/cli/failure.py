"""What stopped a run, as a person reads it: one sentence, and where the trace of a bug lies."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdwatts.cli.refusal import EXPECTED, in_one_sentence, print_sentence
from kdwatts.runtime.ranks import launched

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Hydra's variable: 1 asks for the trace of every error."""
SHOWS_TRACE = os.environ.get(FULL_ERROR) == "1"

TRACEBACK_NAME = "traceback.txt"


@contextmanager
def raised_by_hydra() -> Iterator[None]:
    """Within it Hydra raises what it meets, in place of printing it and ending the process."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before


def keep_trace(run_dir: Path, error: BaseException) -> Path | None:
    """The file of the run's folder that has the trace now; None where it cannot be written.

    Ranks other than the first have a file of their own each.
    """
    rank = launched().rank
    path = run_dir / (f"traceback-rank{rank}.txt" if rank else TRACEBACK_NAME)
    try:
        text = "".join(traceback.format_exception(error))
        path.write_text(text, "utf-8", "backslashreplace")
    except OSError:  # The disk may be what failed.
        return None
    return path


def print_failure(error: Exception, run_dir: Path | None = None) -> str:
    """Print one sentence to stderr, after the trace where HYDRA_FULL_ERROR=1 asks for it.

    The trace of a bug is kept in `run_dir`; it is printed where there is no such folder. Returns
    the sentence.
    """
    is_bug = not isinstance(error, EXPECTED)
    path = run_dir and keep_trace(run_dir, error) if is_bug else None
    if SHOWS_TRACE or (is_bug and path is None):
        traceback.print_exception(error)
    sentence = in_one_sentence(error)
    if is_bug:
        place = f"in {path}" if path else "above"
        sentence = f"the run stopped at a fault of the program ({sentence})"
        sentence += f"; its trace is {place}, please report it"
    print_sentence(sentence)
    return sentence
