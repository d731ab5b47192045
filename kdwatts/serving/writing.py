"""Texts that a server writes after prompts, token by token the server's own. Nothing is sent twice.

This is work and no measurement of waiting: so many requests are under way at once, and the first
that fails ends it all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from kdwatts.models.tokens_as_numbers import as_ids, as_words
from kdwatts.serving.client.completions import kind_of, new_session, reason_of
from kdwatts.serving.client.event_streams import EventStream
from kdwatts.serving.client.outcomes import FAILURES
from kdwatts.serving.client.streamed_answers import BadAnswer, words_of_error
from kdwatts.serving.client.without_prompts import without_prompt
from kdwatts.serving.engines.server import Server
from kdwatts.serving.text_requests import TEXT_BODIES, Sampling, TextRequest, check_forbidden

_LOOK_S = 0.2
_DEATH_S = 5.0
"""A server that is dying closes its connections first, and ends so long after at the latest."""

Take = Callable[[TextRequest, list[int]], None]


@dataclass
class _Writing:
    server: Server
    sampling: Sampling
    session: aiohttp.ClientSession
    alive_s: float = field(default_factory=time.monotonic)
    """When the server last showed that it works."""

    async def text(self, request: TextRequest) -> list[int]:
        body = TEXT_BODIES[self.server.dialect](self.server.model, request, self.sampling)
        url = f"{self.server.url}/v1/completions"
        try:
            response = await self.session.post(url, data=orjson.dumps(body), allow_redirects=False)
            try:
                if response.status != 200:
                    raise BadAnswer(kind_of(response.status), await reason_of(response))
                read = self._streamed if body.get("stream") else self._whole
                ids, is_whole = await read(response)
            finally:
                response.close()
        except (aiohttp.ClientError, OSError) as error:
            raise BadAnswer("connection", str(error) or type(error).__name__) from None
        self.alive_s = time.monotonic()
        self._check(ids, request, is_whole)
        return ids

    async def _whole(self, response: aiohttp.ClientResponse) -> tuple[list[int], bool]:
        """The ids of an answer in one piece, and whether a `stop` ended it."""
        try:
            answer = orjson.loads(await response.read())
            (choice,), usage = answer["choices"], answer["usage"]
            ids, reason = choice["token_ids"], choice["finish_reason"]
            count = usage["completion_tokens"]
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
            detail = "it lacks token_ids, usage or finish_reason, or is no JSON"
            raise BadAnswer("bad_stream", detail) from None
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise BadAnswer("bad_stream", "its token_ids are no list of numbers")
        _check_count(ids, count)
        return ids, bool(self.sampling.stop) and reason == "stop"

    async def _streamed(self, response: aiohttp.ClientResponse) -> tuple[list[int], bool]:
        """The ids of an answer that comes as numbers, given up once a `stop` stands in it.

        The end of the connection then ends the server's work on it, too.
        """
        words, ids, count = "", list[int](), None
        async for event in self._events(response):
            try:
                choice = event["choices"][0]
                words += choice.get("text") or ""
                if choice.get("finish_reason"):
                    count = (event.get("usage") or {}).get("completion_tokens")
            except (AttributeError, LookupError, TypeError):
                raise BadAnswer("bad_stream", "an event is none of a text") from None
            try:
                new = as_ids(words)
            except ValueError:
                raise BadAnswer("bad_stream", "its text is no numbers of tokens") from None
            if len(new) > len(ids) and self._stops(new):
                return new, True
            ids = new
        if count is None:
            raise BadAnswer("no_finish", "the stream ended without a count of its tokens")
        _check_count(ids, count)
        return ids, False

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
        stream = EventStream()
        while read := await response.content.readany():
            self.alive_s = time.monotonic()
            for data in stream.feed(read):
                if data == b"[DONE]":
                    return
                try:
                    event = orjson.loads(data)
                except orjson.JSONDecodeError:
                    raise BadAnswer("bad_stream", "an event is no JSON in UTF-8") from None
                if not isinstance(event, dict) or event.get("error"):
                    raise BadAnswer("error_in_stream", words_of_error(event))
                if not event.get("choices"):
                    raise BadAnswer("bad_stream", "an event has no choices")
                yield event

    def _stops(self, ids: list[int]) -> bool:
        """Whether the end of a text has one of `stop` in it."""
        stop = self.sampling.stop
        if not stop:
            return False
        # A token has a byte at least.
        most = max(len(text.encode()) for text in stop) + 2
        end = self.sampling.decode(ids[-most:])
        return any(text in end for text in stop if text)

    def _check(self, ids: list[int], request: TextRequest, is_stopped: bool) -> None:
        """Raise BadAnswer for a text that is none of those asked for."""
        if not 1 <= len(ids) <= request.new_tokens:
            detail = f"{len(ids)} tokens came, where 1 to {request.new_tokens} were to"
            raise BadAnswer("bad_usage", detail)
        beyond = [one for one in ids if not 0 <= one < self.sampling.vocabulary]
        if beyond:
            raise BadAnswer(
                "bad_stream",
                f"token {beyond[0]} came, and the vocabulary ends below {self.sampling.vocabulary}",
            )
        if any(one in self.sampling.end_ids for one in ids[:-1]):
            raise BadAnswer("bad_stream", "tokens came after an end token")
        is_over = ids[-1] in self.sampling.end_ids or len(ids) == request.new_tokens or is_stopped
        if not is_over:
            detail = f"{len(ids)} of {request.new_tokens} tokens came, and no end token"
            raise BadAnswer("no_finish", detail)


def write_texts(
    server: Server,
    requests: Sequence[TextRequest],
    sampling: Sampling,
    *,
    at_once: int,
    silence_s: float,
    take: Take,
    look: Callable[[], None],
) -> None:
    """Have a server write a text after each prompt, and give it to `take` as soon as it has ended.

    `at_once` requests are under way; a server that takes one at a time gets one. `look` is called
    five times a second: what it raises ends the work. Greedy texts are those of our own loop up to
    rounding of logits. Sampled ones are others, since the random numbers are the engine's.

    Raises RuntimeError, one sentence, for the first request that fails, for a server that ends, and
    for one that shows no sign of work for `silence_s` seconds. Raises ValueError where the engine
    cannot keep to the vocabulary.
    """
    check_forbidden(server.dialect, sampling)
    # One at a time is what it does, and a seed holds for its process and not for a request.
    slots = 1 if server.dialect == "transformers" else at_once
    try:
        asyncio.run(_write(server, requests, sampling, slots, silence_s, take, look))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _write(
    server: Server,
    requests: Sequence[TextRequest],
    sampling: Sampling,
    slots: int,
    silence_s: float,
    take: Take,
    look: Callable[[], None],
) -> None:
    left = iter(requests)
    async with new_session() as session, asyncio.TaskGroup() as group:
        writing = _Writing(server, sampling, session)

        async def work() -> None:
            for request in left:
                try:
                    ids = await writing.text(request)
                except BadAnswer as bad:
                    raise RuntimeError(await _failure(server, request, bad)) from None
                take(request, ids)

        workers = [group.create_task(work()) for _ in range(min(slots, len(requests)))]
        watch = group.create_task(_watch(writing, silence_s, look))
        if workers:
            await asyncio.wait(workers)
        watch.cancel()


async def _watch(writing: _Writing, silence_s: float, look: Callable[[], None]) -> None:
    server, tokens = writing.server, -1.0
    looked_s = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_S)
        look()
        if why := server.why_dead():
            raise RuntimeError(_ended(why))
        now_s = time.monotonic()
        if now_s - writing.alive_s > silence_s / 4 and now_s - looked_s > silence_s / 8:
            # Long answers that come in one piece: the engine's own counter says that it works.
            looked_s = now_s
            counters = await asyncio.to_thread(server.read_counters)
            if counters and counters["output_tokens"] != tokens:
                is_first, tokens = tokens < 0, counters["output_tokens"]
                writing.alive_s = writing.alive_s if is_first else now_s
        if now_s - writing.alive_s > silence_s:
            raise RuntimeError(
                f"{server.record.name} showed no sign of work for "
                f"eval.serving.request_timeout_s={silence_s:g} s; look into its log, or give it "
                "more time"
            )


def _ended(why: str) -> str:
    return f"{why}; the texts that it had finished are kept: run the same command to go on"


async def _failure(server: Server, request: TextRequest, bad: BadAnswer) -> str:
    """One sentence; that of a server which ended says more than that of its connections."""
    started_s = time.monotonic()
    while bad.kind in ("connection", "no_finish") and time.monotonic() - started_s < _DEATH_S:
        if why := server.why_dead():
            return _ended(why)
        await asyncio.sleep(_LOOK_S)
    detail = without_prompt(bad.detail, as_words(request.prompt_ids))
    return (
        f"{server.record.name} failed to write after a prompt of {len(request.prompt_ids)} tokens: "
        f"{FAILURES[bad.kind]} ({detail}); nothing is sent twice, so run the same command to go on"
    )


def _check_count(ids: list[int], count: object) -> None:
    if count != len(ids):
        raise BadAnswer("bad_usage", f"{len(ids)} tokens came, and the server counts {count}")
