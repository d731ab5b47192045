"""The ranks of one launch: what the first tells the others, and what they answer.

Messages go through a store beside the computations, so whoever tells does not wait. They are JSON,
signed with a token that only the ranks of this launch have: whoever else reaches the store can make
no rank do anything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kdwatts.runtime.interrupt import Preempted
from kdwatts.runtime.ranks import Launch, Ranks
from kdwatts.telemetry.node_facts import NodeFacts
from kdwatts.training.cause import Cause, Place, RankFailed, is_of_connection
from kdwatts.training.channel import Channel

POLL_EVERY_S = 0.1
POLL_END_S = 0.02
LAST_PATIENCE_S = 10.0
ANSWER_PATIENCE_S = 300.0
"""Imports from a slow file system take a minute or two. A rank that dies is noticed before."""
FAREWELL_S = 3.0
"""How long the first rank, which ends the store with it, lets the others read why it ends where one
of them can say no farewell."""
VERDICT_PATIENCE_S = 45.0
"""How long after an error of a connection the reason is waited for. Longer than it takes to find a
rank lost by its silence (LOST_AFTER_S, sign_of_life.py)."""


class Company:
    """The ranks of one launch. What the first rank tells the others reaches each of them, in order.

    A message is a value of JSON's types.
    """

    def __init__(
        self,
        ranks: Ranks,
        store: Any,
        *,
        token: str,
        nodes: Sequence[NodeFacts],
        peers: Sequence[int] = (),
    ) -> None:
        """`store` is one of torch.distributed, `peers` are process ids of the others on this
        node."""
        self.ranks = ranks
        self.nodes = list(nodes)
        """Every node of the launch, in the order of their numbers."""
        self.token = token
        """A secret of this launch."""
        self.peers = list(peers)
        """Process ids of the other ranks on this node."""
        self.channel = Channel(store, token)
        self.place: Place | None = None
        """Where the first rank is in its run, as far as this rank knows."""
        self.verdict: Cause | None = None
        """Why the launch ends, as soon as this rank knows it."""
        self.alarmed_s: float | None = None
        """When this rank met an error that may be another's, by the monotonic clock."""
        self.heard_s: float | None = None
        """Of the first rank: since when every other has given a sign of life, by that clock."""
        self.is_at_work = True
        """Whether a run is in progress, which the loss of a rank would end."""
        self._num_told = 0
        self._num_left = 0

    @property
    def launch(self) -> Launch:
        """How many ranks there are, and on how many nodes they found each other."""
        return Launch(len(self.nodes), self.ranks.world)

    @property
    def node(self) -> NodeFacts:
        """The node of this rank."""
        return self._node_of(self.ranks.rank)

    @property
    def leads_node(self) -> bool:
        """Whether this rank is the first of its node, which meters it."""
        return self.node.ranks[0] == self.ranks.rank

    @property
    def is_deputy(self) -> bool:
        """Whether this rank speaks where the first is lost: the lowest one on another node."""
        elsewhere = [rank for node in self.nodes[1:] for rank in node.ranks]
        return self.ranks.rank == min(elsewhere, default=1)

    def host_of(self, rank: int) -> str | None:
        """The host of a rank's node; None where there is only one."""
        return self._node_of(rank).host if len(self.nodes) > 1 else None

    def _node_of(self, rank: int) -> NodeFacts:
        return next(node for node in self.nodes if rank in node.ranks)

    def name_of(self, rank: int) -> str:
        """A rank in words, with its node where there are several."""
        host = self.host_of(rank)
        return f"rank {rank} on {host}" if host else f"rank {rank}"

    def tell(self, message: Any) -> None:
        """Send a message to all others. Only the first rank does."""
        self.is_at_work = True
        self.channel.write(f"told-{self._num_told}", message)
        self._num_told += 1

    def tell_last(self, message: Any) -> None:
        """Send what may be the last message, and wait until all have left: the store ends with us.

        A rank leaves when it hears this message, or after an error of its own. Then it hears
        nothing any more. A busy or dead rank is waited for, but not for long.
        """
        self.tell(message)
        self.is_at_work = self.verdict is not None
        is_lost = self.verdict is not None and self.verdict.is_lost
        self._wait_for(f"left-{self._num_left}", FAREWELL_S if is_lost else LAST_PATIENCE_S)
        self._num_left += 1

    def wait_for_answers(self) -> dict[int, Any]:
        """What every other rank answered to the last message, by rank, once all did or have left.

        Raises RankFailed with the sentence of a rank that left because it failed.
        """
        word = f"answer-{self._num_told}"
        self._wait_for(word, ANSWER_PATIENCE_S)
        if (cause := self.cause()) and cause.rank != self.ranks.rank:
            raise RankFailed(cause)
        others = range(1, self.ranks.world)
        words = {rank: f"{word}-{rank}" for rank in others}
        return {
            rank: self.channel.read(one) for rank, one in words.items() if self.channel.has(one)
        }

    def answer(self, value: Any = None) -> None:
        """Say that the last message has been dealt with, and what came of it."""
        self.channel.write(f"answer-{self._num_told}-{self.ranks.rank}", value)

    def complain(self, sentence: str) -> None:
        """Say why this rank fails, so that the others do not blame what follows from it."""
        rank = self.ranks.rank
        self.blame(Cause(rank, self.host_of(rank), f"{self.name_of(rank)}: {sentence}"))

    def blame(self, cause: Cause, channel: Channel | None = None) -> None:
        """Say why the run ends, unless somebody has said it.

        `channel` is that of another thread.
        """
        with contextlib.suppress(RuntimeError):  # The first rank, whose store it is, is gone.
            (channel or self.channel).write_first(self.cause_name, asdict(cause))

    @property
    def cause_name(self) -> str:
        """The name of the value that says why this run ends."""
        return f"cause-{self._num_left}"

    @property
    def alarm_name(self) -> str:
        """The name of the value that says that a rank met an error which may be another's."""
        return f"alarm-{self._num_left}"

    def cause(self, channel: Channel | None = None) -> Cause | None:
        """Why this run ends, as the first said that knew it; None where nobody has said so."""
        channel = channel or self.channel
        if self.verdict is None and channel.has(self.cause_name):
            self.verdict = Cause(**channel.read(self.cause_name))
        return self.verdict

    def cause_behind(self, error: BaseException) -> Cause | None:
        """Which other rank is to blame for an error of this one; None where it is its own.

        A broken connection does not say which rank ended it. Then this waits until a rank has said
        so, or is found lost. After a signal the first rank waits too: launchers send one to all
        ranks when one has died.
        """
        if isinstance(error, RankFailed):
            return error.cause
        if not isinstance(error, Exception):
            return None
        self.alarmed_s = time.monotonic()
        is_signal = isinstance(error, Preempted) and self.ranks.leads
        waits = is_signal or is_of_connection(error)
        with contextlib.suppress(RuntimeError):
            if waits:
                self.channel.write_first(self.alarm_name, self.ranks.rank)
        while True:
            with contextlib.suppress(RuntimeError):
                self.cause()
            if self.verdict:
                return self.verdict if self.verdict.rank != self.ranks.rank else None
            waited_s = time.monotonic() - self.alarmed_s
            all_live = self.heard_s is not None and self.heard_s > self.alarmed_s
            if not waits or waited_s > VERDICT_PATIENCE_S or (is_signal and all_live):
                return None
            time.sleep(POLL_EVERY_S)

    def leave(self) -> None:
        """Say that this rank has no more part in the run, however it ended here."""
        with contextlib.suppress(RuntimeError):  # The first rank, whose store it is, is gone.
            self.channel.write(f"left-{self._num_left}-{self.ranks.rank}", None)
        self.is_at_work = self.verdict is not None
        self._num_left += 1

    def has_left(self, rank: int, channel: Channel) -> bool:
        """Whether a rank said so of the run in progress. `channel` is that of another thread."""
        with contextlib.suppress(RuntimeError):
            return channel.has(f"left-{self._num_left}-{rank}")
        return False

    def hear(self) -> Any:
        """The first rank's next message, however long it takes.

        Raises RuntimeError when the store is gone, and the first rank with it.
        """
        self.is_at_work = True
        name = f"told-{self._num_told}"
        while not self.channel.has(name):
            time.sleep(POLL_EVERY_S)
        self._num_told += 1
        return self.channel.read(name)

    def _wait_for(self, word: str, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        words = (word, f"left-{self._num_left}")
        waiting = set(range(1, self.ranks.world))
        while waiting and time.monotonic() < deadline_s:
            for rank in list(waiting):
                if any(self.channel.has(f"{said}-{rank}") for said in words):
                    waiting.remove(rank)
            if waiting:
                time.sleep(POLL_END_S)
