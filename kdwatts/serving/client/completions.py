"""One request to /v1/completions, from its sending to what became of it. Nothing is sent twice."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import orjson

from kdwatts.serving.client.event_streams import EventStream
from kdwatts.serving.client.outcomes import UNFINISHED, Outcome
from kdwatts.serving.client.progress import Progress
from kdwatts.serving.client.streamed_answers import Answer, BadAnswer, words_of_error
from kdwatts.serving.client.without_prompts import without_prompt

HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
"""A compressed stream would wait until there is enough to compress."""

_ERROR_BYTES = 65536


@dataclass(frozen=True)
class Prepared:
    """A request that only needs to be sent."""

    number: int
    body: bytes
    prompt: str
    prompt_tokens: int
    """As we count them; the server may add a token of its own."""
    due_s: float | None = None
    """Of a replay, in seconds after the start."""
    session: int | None = None
    """Of a replay: it is sent when the one before it in this conversation has ended."""


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    session: aiohttp.ClientSession
    url: str
    """Of /v1/completions."""
    timeout_s: float


def new_session() -> aiohttp.ClientSession:
    """A session that waits for nothing but the server.

    Each request has a connection of its own. A server closes one that was idle for some seconds,
    and a request sent at that moment would fail by no fault of the server's load. There is no
    limit on connections, no time-out but the request's own, and no proxy of the environment.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=None)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=HEADERS,
        trust_env=False,
    )


async def complete(
    request: Prepared, scheduled_s: float, target: Target, progress: Progress
) -> Outcome:
    """Send a request and read its answer to the end.

    A cancellation gives it up: it is unfinished. Every other fault of the server or of the way to
    it is a failure of the kind that FAILURES explains; none is raised.
    """
    sent_s = time.monotonic()
    progress.sent += 1
    answer = Answer()
    ended_s = usage = chunks = failure = detail = None
    limit = asyncio.timeout_at(sent_s + target.timeout_s)
    try:
        async with limit:
            ended_s = await _exchange(request, target, answer, progress)
        usage, chunks = answer.ended()
        progress.output_tokens += usage.output_tokens - answer.tokens
        counted = request.prompt_tokens if answer.tokens else 0
        progress.prompt_tokens += usage.prompt_tokens - counted
    except asyncio.CancelledError:
        failure, usage = UNFINISHED, answer.so_far()
    except BadAnswer as bad:
        failure, detail = bad.kind, bad.detail
    except aiohttp.ClientResponseError:
        failure, detail = "bad_stream", "the answer is no valid HTTP"
    except (aiohttp.ClientError, OSError) as error:
        # The network has time-outs of its own.
        failure = "timeout" if limit.expired() else "connection"
        detail = str(error) or type(error).__name__
    if failure == "timeout":
        detail = f"no whole answer in {target.timeout_s:g} s"
    outcome = Outcome(
        number=request.number,
        scheduled_s=scheduled_s,
        sent_s=sent_s,
        ended_s=ended_s or time.monotonic(),
        chunks=answer.chunks if chunks is None else chunks,
        prompt_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        finish_reason=answer.finish_reason,
        failure=failure,
        detail=detail and without_prompt(detail, request.prompt),
    )
    progress.count(outcome)
    return outcome


async def _exchange(request: Prepared, target: Target, answer: Answer, progress: Progress) -> float:
    """Send a request and fill its answer; when the last byte came, in monotonic seconds.

    Raises BadAnswer, or what aiohttp raises for a connection.
    """
    response = await target.session.post(target.url, data=request.body, allow_redirects=False)
    try:
        if response.status != 200:
            raise BadAnswer(kind_of(response.status), await reason_of(response))
        ended_s = await _read(response.content, request, answer, progress)
        if not answer.num_events and response.content_type != "text/event-stream":
            kind = response.content_type
            raise BadAnswer("bad_stream", f"the server answered {kind} and not an event stream")
        return ended_s
    finally:
        response.close()


async def _read(
    content: aiohttp.StreamReader, request: Prepared, answer: Answer, progress: Progress
) -> float:
    stream, now_s = EventStream(), time.monotonic()
    try:
        while not answer.is_done and (read := await content.readany()):
            now_s = time.monotonic()
            for data in _events(stream, read):
                before = answer.tokens
                answer.take(data, now_s)
                progress.output_tokens += answer.tokens - before
                if answer.tokens and not before:
                    progress.prompt_tokens += request.prompt_tokens
    except aiohttp.ClientPayloadError as error:
        if "ConnectionResetError" in str(error):
            raise BadAnswer("connection", "the server reset the connection") from None
        # Closed without the last piece of HTTP: the answer itself may be whole.
    return now_s


def _events(stream: EventStream, read: bytes) -> list[bytes]:
    try:
        return stream.feed(read)
    except ValueError as error:
        raise BadAnswer("bad_stream", str(error)) from None


def kind_of(status: int) -> str:
    """The key of FAILURES for an HTTP status that is no 200."""
    if status == 429:
        return "too_many"
    return "server_error" if status >= 500 else "refused"


async def reason_of(response: aiohttp.ClientResponse) -> str:
    """What the server says of its refusal: HTTP status, and the sentence of its body."""
    body = b""
    while len(body) < _ERROR_BYTES and (read := await response.content.readany()):
        body += read
    try:
        words = words_of_error(orjson.loads(body))
    except orjson.JSONDecodeError:
        words = body.decode("utf-8", "replace")
    return f"HTTP {response.status} {response.reason}: {words}"
