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
from kdwatts.training.company import FAREWELL_S, Company

GRACE_S = 15.0
"""How long a process has to end in order, its windows closed, before it is ended where it is."""

MEETING = "meet"
"""What status.json calls the time before the ranks have found each other."""

_writing = threading.Lock()


class GoesOn(Preempted):
    """A rank was lost, and Slurm starts this job anew."""


def end_run(company: Company, cause: Cause) -> None:
    """End this process, whose run cannot go on. For another thread than the main one.

    The main thread may be inside a collective, which no exception ends. Then the process ends at
    once, and what it measured is read from its trace, as after SIGKILL.
    """
    interrupt.give_up(RankFailed(cause))
    time.sleep(GRACE_S)
    stop = conclude(company, cause)
    if company.ranks.leads:
        time.sleep(FAREWELL_S)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(EXIT_PREEMPTED if isinstance(stop, GoesOn) else EXIT_FAILED)


def conclude(company: Company, cause: Cause) -> RankFailed | GoesOn:
    """Write and print why the run ends, unless it was done, and ask for a turn after a loss.

    The first rank does, or its deputy where it is lost itself. Returns what to raise.
    """
    place, stop = company.place, RankFailed(cause)
    speaks = company.is_deputy if cause.is_lost and cause.rank == 0 else company.ranks.leads
    if place is None or not speaks:
        return stop
    with _writing:
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
