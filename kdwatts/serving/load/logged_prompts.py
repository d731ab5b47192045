"""The requests of a log as they are sent: texts as they are, lengths with text cut to them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.serving import Workload
from kdwatts.serving.load.replayed_log import Part, ReplayedLog
from kdwatts.serving.load.requests import Request
from kdwatts.serving.load.stream import starts
from kdwatts.traffic.logged_request import LoggedRequest


class LoggedPrompts:
    """Requests of one log for all loads of a server.

    Where the log has lengths alone, a prompt is cut from `ids`, the text in the model's tokens,
    int64 [n]. Each prompt begins at a place of its own, but for what the log shares: blocks of one
    name are the same tokens, and so is the beginning of all turns of one conversation. They are
    shared within one replay. The next one begins at other places, so that it finds nothing of its
    own in a cache of prefixes.
    """

    def __init__(
        self,
        log: ReplayedLog,
        workload: Workload,
        ids: NDArray[np.int64],
        tokenizer: Any,
        *,
        seed: int,
        max_positions: int | None,
    ) -> None:
        self.log = log
        self._workload, self._ids, self._tokenizer = workload, ids, tokenizer
        self._max_positions = max_positions
        self._draw = np.random.default_rng(seed)
        lengths = log.traffic.prompt_tokens
        stride = max(1, round(lengths.mean)) if lengths else workload.prompt_tokens
        self._starts = starts(len(ids), stride, self._draw)
        self._sent: set[int] = set()
        """Numbers of the requests whose own text was sent."""

    def replay(self, part: Part) -> Iterator[Request]:
        """The requests of a part in the order of arrival, each with the moment at which it is due.

        Numbers count from 0.
        """
        texts = _Texts(self._ids, self._starts)
        sessions: dict[str, int] = {}
        for number in range(part.num_requests):
            one = self.log.requests[number]
            session = None
            if self.log.is_ordered and one.session is not None:
                session = sessions.setdefault(one.session, len(sessions))
            yield self._request(number, texts, due_s=one.t_s / part.speed, session=session)

    def shuffled(self) -> Iterator[Request]:
        """All requests in an order that the seed draws, again and again in another, without end."""
        while True:
            texts = _Texts(self._ids, self._starts)
            for number in self._draw.permutation(len(self.log.requests)).tolist():
                yield self._request(number, texts)

    def _request(
        self,
        number: int,
        texts: _Texts,
        *,
        due_s: float | None = None,
        session: int | None = None,
    ) -> Request:
        one, own = self.log.requests[number], self.log.ids[number]
        length = one.length or self._workload.length
        wanted = _wanted(one, length, self._workload)
        prompt_tokens, output_tokens = self._fitted(one.prompt_tokens or 1, wanted)
        is_cut = (prompt_tokens, output_tokens) != (one.prompt_tokens, wanted)
        if own is not None:
            ids = own[:prompt_tokens].tolist()
        else:
            shares_session = self.log.is_ordered and not one.prefix_blocks
            ids = texts.prompt(one, prompt_tokens, one.session if shares_session else None)
        is_whole = own is not None and len(own) == prompt_tokens
        text = one.prompt if is_whole else self._as_text(ids)
        assert text is not None
        is_repeated = number in self._sent
        if own is not None:
            self._sent.add(number)
        return Request(
            number,
            prompt_ids=ids,
            prompt=text,
            output_tokens=output_tokens,
            length=length,
            due_s=due_s,
            session=session,
            is_cut=is_cut,
            is_repeated=is_repeated,
        )

    def _fitted(self, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Tokens of prompt and answer within the context, of which an answer has at least half."""
        limit = self._max_positions
        if limit is None or prompt_tokens + output_tokens <= limit:
            return prompt_tokens, output_tokens
        prompt_tokens = min(prompt_tokens, max(1, limit - min(output_tokens, limit // 2)))
        return prompt_tokens, min(output_tokens, max(1, limit - prompt_tokens))

    def _as_text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def _wanted(one: LoggedRequest, length: str, workload: Workload) -> int:
    """Tokens that a request asks for: exactly so many where they are forced, else at most.

    An answer that ends by itself may be longer than the logged one, so the request's own limit
    comes first there.
    """
    stated = (one.output_tokens, one.max_tokens)
    first, second = stated if length == "forced" else stated[::-1]
    wanted = first or second or workload.output_tokens
    return wanted if one.max_tokens is None else min(wanted, one.max_tokens)


@dataclass
class _Texts:
    """Where the prompts of one replay are cut from the text."""

    ids: NDArray[np.int64]
    starts: Iterator[int]
    places: dict[Hashable, int] = field(default_factory=dict)
    """Start of each name that prompts share."""

    def prompt(self, one: LoggedRequest, prompt_tokens: int, session: str | None) -> list[int]:
        """Tokens of a prompt: its blocks, then text of its own, or its conversation's text."""
        if session is not None:
            return self._cut(self._place(session), prompt_tokens)
        size = one.block_tokens
        blocks = one.prefix_blocks[: -(-prompt_tokens // size)]
        most = min(size, prompt_tokens)
        shared = [self._cut(self._place((name, size)), most) for name in blocks]
        ids = [token for block in shared for token in block][:prompt_tokens]
        left = prompt_tokens - len(ids)
        return ids + self._cut(next(self.starts), left) if left else ids

    def _place(self, name: Hashable) -> int:
        if name not in self.places:
            self.places[name] = next(self.starts)
        return self.places[name]

    def _cut(self, start: int, number: int) -> list[int]:
        """So many tokens. A text that ends goes on at its beginning."""
        return np.take(self.ids, np.arange(start, start + number), mode="wrap").tolist()
