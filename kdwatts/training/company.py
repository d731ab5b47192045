"""The ranks of one launch: what the first tells the others, and what they answer.

Messages go through a store beside the computations, so whoever tells does not wait. They are JSON,
signed with a token that only the ranks of this launch have: whoever else reaches the store can make
no rank do anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

from kdwatts.runtime.ranks import Launch, Ranks
from kdwatts.telemetry.node_facts import NodeFacts

POLL_EVERY_S = 0.1
POLL_END_S = 0.02
LAST_PATIENCE_S = 10.0
ANSWER_PATIENCE_S = 300.0
"""Imports from a slow file system take a minute or two. A rank that dies there is noticed later."""


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
        self._store = store
        self._num_told = 0
        self._num_left = 0

    @property
    def launch(self) -> Launch:
        """How many ranks there are, and on how many nodes they found each other."""
        return Launch(len(self.nodes), self.ranks.world)

    @property
    def node(self) -> NodeFacts:
        """The node of this rank."""
        return next(node for node in self.nodes if self.ranks.rank in node.ranks)

    @property
    def leads_node(self) -> bool:
        """Whether this rank is the first of its node, which meters it."""
        return self.node.ranks[0] == self.ranks.rank

    def name_of(self, rank: int) -> str:
        """A rank in words, with its node where there are several."""
        (host,) = [node.host for node in self.nodes if rank in node.ranks]
        return f"rank {rank} on {host}" if len(self.nodes) > 1 else f"rank {rank}"

    def tell(self, message: Any) -> None:
        """Send a message to all others. Only the first rank does."""
        self._write(f"told-{self._num_told}", message)
        self._num_told += 1

    def tell_last(self, message: Any) -> None:
        """Send what may be the last message, and wait until all have left: the store ends with us.

        A rank leaves when it hears this message, or after an error of its own. Then it hears
        nothing any more. A busy or dead rank is waited for, but not for long.
        """
        self.tell(message)
        self._wait_for(f"left-{self._num_left}", LAST_PATIENCE_S)
        self._num_left += 1

    def wait_for_answers(self) -> dict[int, Any]:
        """What every other rank answered to the last message, by rank, once all did or have left.

        Raises RuntimeError with the sentence of a rank that left because it failed.
        """
        word = f"answer-{self._num_told}"
        self._wait_for(word, ANSWER_PATIENCE_S)
        if complaint := self.complaint():
            raise RuntimeError(complaint)
        others = range(1, self.ranks.world)
        words = {rank: f"{word}-{rank}" for rank in others}
        return {rank: self._read(one) for rank, one in words.items() if self._store.check([one])}

    def answer(self, value: Any = None) -> None:
        """Say that the last message has been dealt with, and what came of it."""
        self._write(f"answer-{self._num_told}-{self.ranks.rank}", value)

    def complain(self, sentence: str) -> None:
        """Say why this rank fails, so that the others do not blame what follows from it."""
        with contextlib.suppress(RuntimeError):
            name = f"complaint-{self._num_left}-{self.ranks.rank}"
            self._write(name, f"{self.name_of(self.ranks.rank)}: {sentence}")

    def complaint(self) -> str | None:
        """Why another rank failed, in its own sentence; None where none has said so."""
        for rank in range(self.ranks.world):
            name = f"complaint-{self._num_left}-{rank}"
            if rank != self.ranks.rank and self._store.check([name]):
                return str(self._read(name))
        return None

    def leave(self) -> None:
        """Say that this rank has no more part in the run, however it ended here."""
        with contextlib.suppress(RuntimeError):  # The first rank, whose store it is, is gone.
            self._write(f"left-{self._num_left}-{self.ranks.rank}", None)
        self._num_left += 1

    def hear(self) -> Any:
        """The first rank's next message, however long it takes.

        Raises RuntimeError when the store is gone, and the first rank with it.
        """
        name = f"told-{self._num_told}"
        while not self._store.check([name]):
            time.sleep(POLL_EVERY_S)
        self._num_told += 1
        return self._read(name)

    def _wait_for(self, word: str, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        words = (word, f"left-{self._num_left}")
        waiting = set(range(1, self.ranks.world))
        while waiting and time.monotonic() < deadline_s:
            for rank in list(waiting):
                if any(self._store.check([f"{said}-{rank}"]) for said in words):
                    waiting.remove(rank)
            if waiting:
                time.sleep(POLL_END_S)

    def _write(self, name: str, value: Any) -> None:
        body = json.dumps(value, allow_nan=False)
        self._store.set(name, json.dumps({"mac": self._mac(name, body), "body": body}))

    def _read(self, name: str) -> Any:
        """What a rank of this launch wrote. Raises RuntimeError for what another wrote."""
        try:
            record = json.loads(self._store.get(name))
            body, mac = record["body"], record["mac"]
            if hmac.compare_digest(mac, self._mac(name, body)):
                return json.loads(body)
        except (ValueError, TypeError, KeyError):
            pass
        raise RuntimeError(
            f"a message of the launch ({name}) is not signed with its token, so somebody else "
            "reaches the address where its ranks meet; put MASTER_ADDR on a network of your own"
        )

    def _mac(self, name: str, body: str) -> str:
        """The signature holds the name, too: a message cannot be sent again as another one."""
        text = f"{name}\n{body}".encode()
        return hmac.new(self.token.encode(), text, hashlib.sha256).hexdigest()
