"""How a process of several ranks ends when one of them failed or was lost."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

from kdwatts.artifacts.manifest import read_status, write_status
from kdwatts.cli.refusal import print_sentence
from kdwatts.cli.sweep import EXIT_FAILED, EXIT_PREEMPTED
from kdwatts.runtime import interrupt, slurm_jobs
from kdwatts.runtime.interrupt import Preempted
from kdwatts.training.cause import Cause, RankFailed
from kdwatts.training.company import Company

GRACE_S = 15.0
"""How long a process has to end in order, its windows closed, before it is ended where it is."""

DEPUTY_WAITS_S = 5.0
"""How long the deputy leaves the word to the first rank. Where a network is cut in two, each side
finds the other lost at the same time, and the first rank's is the one that goes on record."""

MEETING = "meet"
"""What status.json calls the time before the ranks have found each other."""

_writing = threading.RLock()
_stop: RankFailed | GoesOn | None = None


class GoesOn(Preempted):
    """A rank was lost, and Slurm starts this job anew."""


def end_run(company: Company, cause: Cause) -> None:
    """End this process, whose run cannot go on. For another thread than the main one.

    The main thread may be inside a collective, which no exception ends. Then the process ends at
    once, and what it measured is read from its trace, as after SIGKILL.
    """
    stop = conclude(company, cause)
    interrupt.give_up(stop)
    time.sleep(GRACE_S)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(EXIT_PREEMPTED if isinstance(stop, GoesOn) else EXIT_FAILED)


def conclude(company: Company, cause: Cause) -> RankFailed | GoesOn:
    """What to raise where a rank failed or was lost.

    The first rank writes and prints why, unless the run had ended before, and after a loss it asks
    Slurm for another turn. Where the first rank is lost, its deputy does so. Only the first call
    does anything.
    """
    global _stop
    with _writing:
        _stop = _stop or _concluded(company, cause)
        return _stop


def _concluded(company: Company, cause: Cause) -> RankFailed | GoesOn:
    place, stop = company.place, RankFailed(cause)
    is_first_lost = cause.is_lost and cause.rank == 0
    if place is None or not (company.is_deputy if is_first_lost else company.ranks.leads):
        return stop
    if is_first_lost:
        time.sleep(DEPUTY_WAITS_S)
    status = read_status(place.folder)
    began = status.get("attempt", 0) >= place.attempt
    if began and (status["state"], status["attempt"]) != ("running", place.attempt):
        return stop
    stage = status["stage"] if began else MEETING
    sentence = cause.in_stage(stage)

    def write(state: str, error: str) -> None:
        attempt, node = place.attempt, cause.host
        write_status(
            place.folder, state=state, stage=stage, attempt=attempt, error=error, node=node
        )
        print_sentence(error, rank=0)

    if cause.is_lost and slurm_jobs.has_turns(place.max_requeues):
        # Written before Slurm is asked, which may end this process in the middle of a word.
        text = f"{sentence}; Slurm starts job {slurm_jobs.own_id()} anew"
        write("preempted", text)
        if slurm_jobs.ask_for_another_turn():
            return GoesOn(text)
        sentence += "; Slurm was asked to start the job anew and did not"
    write("failed", sentence)
    return stop
