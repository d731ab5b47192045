"""Noticing that a rank is gone, wherever the others are: each gives a sign of life every second.

A collective in which a rank is missing waits for it, and others rightly wait for hours while one
rank evaluates. So no time-out of a collective tells a lost rank from a busy one. A thread beside
the work does: it goes on while its rank computes, and ends with its process, node or network.

The first rank watches all others, and the others watch the first, which passes on what it found. So
a second costs the first rank one question however many ranks there are, and each other rank one.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdwatts.runtime import interrupt
from kdwatts.training.cause import Cause, Place
from kdwatts.training.channel import NotSigned

if TYPE_CHECKING:
    from kdwatts.training.company import Company

BEAT_EVERY_S = 1.0
LOST_AFTER_S = 30.0
"""How long a rank may be silent. Its thread gives no sign while native code holds Python's lock,
such as a large pickle, and while the machine swaps: seconds, not tens of them (safetensors and
torch.save release the lock while they write, 0.2 s was the longest pause for files of 1 GB). With
what follows the finding all ranks have ended within a minute."""
GONE_AFTER_S = 4.0
"""The same once a rank met a closed connection: then some rank is gone, and it is the one that has
been silent for longest."""
ENDING_AFTER_S = 10.0
"""The same once this rank was asked to end. Slurm asks the ranks that a killed one leaves behind,
and kills them after KillWait, 30 s unless a site chose otherwise: till then it must be said why."""
LOOK_EVERY_S = 0.25
STOP_PATIENCE_S = 2.0
"""How long the end of a process waits for a question to the store that is under way."""


class SignOfLife:
    """The two threads of one rank: one gives signs and hears those of others, one counts silences.

    They are two because a question to a store on a lost node has no time-out. Time counts only
    while the second thread runs itself: a process that was stopped, or a machine that slept, finds
    nobody lost when it goes on.
    """

    def __init__(self, company: Company, end: Callable[[Cause], None]) -> None:
        """`end` is called once, in a thread of its own, with why the run cannot go on."""
        self._company, self._end = company, end
        self._leads = company.ranks.leads
        others = range(1, company.ranks.world) if self._leads else range(1)
        self._silent_s = dict.fromkeys(others, 0.0)
        self._last_s = dict.fromkeys(others, time.monotonic())
        self._store_silent_s = 0.0
        self._channel = company.channel.beside()
        """Of the thread that counts."""
        self._is_cut_off = False
        self._stranger: NotSigned | None = None
        self._is_alarmed = False
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"kdwatts-{work.__name__}", daemon=True)
            for work in (self._talk, self._count)
        ]

    def start(self) -> None:
        """Begin, until the process ends. Every rank of the launch calls it."""
        if self._leads:
            for rank in range(self._company.ranks.world):
                self._company.channel.write_first(_name(rank), {"beat": 0})
        for thread in self._threads:
            thread.start()
        atexit.register(self._stop)

    def _stop(self) -> None:
        """End both threads while the interpreter is whole.

        Its end would unwind them inside torch's C++, which aborts the process.
        """
        self._over.set()
        for thread in self._threads:
            thread.join(STOP_PATIENCE_S)

    def _talk(self) -> None:
        company, beat = self._company, 0
        heard: dict[int, Any] = {}
        try:
            channel = company.channel.beside()
            while not self._over.is_set():
                beat += 1
                channel.write(_name(company.ranks.rank), self._sign(beat))
                if self._leads:
                    company.cause(channel)
                    self._is_alarmed = channel.has(company.alarm_name)
                for rank, sign in zip(
                    self._silent_s, channel.read_all(list(map(_name, self._silent_s))), strict=True
                ):
                    if sign != heard.get(rank):
                        self._silent_s[rank], self._last_s[rank] = 0.0, time.monotonic()
                    heard[rank] = sign
                if not self._leads:
                    self._take(heard[0])
                self._store_silent_s = 0.0
                self._over.wait(BEAT_EVERY_S)
        except NotSigned as error:
            self._stranger = error
        except RuntimeError:  # The store is gone, and the first rank with it.
            self._is_cut_off = True

    def _sign(self, beat: int) -> dict[str, Any]:
        """What this rank shows: the first, also where its run is, and why it ends."""
        company = self._company
        if not self._leads:
            return {"beat": beat}
        place, verdict = company.place, company.verdict
        return {
            "beat": beat,
            "place": place and asdict(place),
            "verdict": verdict and asdict(verdict),
        }

    def _take(self, sign: dict[str, Any]) -> None:
        if sign.get("place"):
            self._company.place = Place(**sign["place"])
        if sign.get("verdict") and self._company.verdict is None:
            self._company.verdict = Cause(**sign["verdict"])

    def _count(self) -> None:
        company, before_s = self._company, time.monotonic()
        while not self._over.wait(LOOK_EVERY_S):
            now_s = time.monotonic()
            passed_s, before_s = min(now_s - before_s, 2 * LOOK_EVERY_S), now_s
            self._store_silent_s += passed_s
            for rank in self._silent_s:
                self._silent_s[rank] += passed_s
            if self._leads:
                company.heard_s = min(self._last_s.values())
            if not company.is_at_work:
                continue
            if company.verdict is None and (cause := self._found()):
                if self._leads:
                    company.blame(cause, self._channel)
                    with contextlib.suppress(RuntimeError):
                        company.cause(self._channel)  # Perhaps a rank has just said why it fails.
                company.verdict = company.verdict or cause
            if company.verdict:
                self._end(company.verdict)
                return

    def _found(self) -> Cause | None:
        """Which rank is lost now; None where all live."""
        company = self._company
        is_alarmed = self._is_alarmed or company.alarmed_s is not None
        is_ending = signal.SIGTERM in interrupt.received()
        limit_s = ENDING_AFTER_S if is_ending else LOST_AFTER_S
        if is_alarmed:
            limit_s = GONE_AFTER_S
        if self._stranger:
            own = company.ranks.rank
            return Cause(own, company.host_of(own), f"{company.name_of(own)}: {self._stranger}")
        if self._is_cut_off:
            return self._lost(0, "ended without a word")
        rank = max(self._silent_s, key=lambda one: self._silent_s[one])
        silent_s = self._silent_s[rank]
        if not self._leads:
            silent_s = max(silent_s, self._store_silent_s)
        if silent_s < limit_s or self._has_left(rank):
            return None
        if silent_s < LOST_AFTER_S:
            return self._lost(rank, "ended without a word")
        return self._lost(rank, f"gave no sign of life for {LOST_AFTER_S:g} s")

    def _has_left(self, rank: int) -> bool:
        """Whether a silent rank said that it leaves. Then nobody waits for it any more."""
        if not (self._leads and self._company.has_left(rank, self._channel)):
            return False
        self._silent_s[rank], self._last_s[rank] = -math.inf, math.inf
        return True

    def _lost(self, rank: int, how: str) -> Cause:
        company = self._company
        sentence = f"{company.name_of(rank)} {how}"
        return Cause(rank, company.host_of(rank), sentence, is_lost=True)


def _name(rank: int) -> str:
    return f"alive-{rank}"
