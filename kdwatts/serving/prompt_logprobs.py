"""What a served model expects after each token of a text: vLLM's `prompt_logprobs`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import aiohttp

from kdwatts.runtime import interrupt
from kdwatts.serving.engines.server import Server

Read = TypeVar("Read")

_AT_ONCE = 64
"""Requests under way. The engine's own queue holds those that it does not compute yet."""
_LOOK_S = 0.5
_DEATH_S = 5.0
"""Time for a server that broke a connection to be seen to have ended."""
_MOST_CHARACTERS = 300


def read_prompts(
    server: Server,
    prompts: Sequence[Sequence[int]],
    read: Callable[[Sequence[int], Any], Read],
    *,
    k: int,
    timeout_s: float,
    kept: str,
) -> list[Read]:
    """What `read` makes of each prompt and of its `prompt_logprobs`, in the order of the prompts.

    Of each token but the first, these hold the k likeliest tokens in its place and the token
    itself, with their log-probabilities in nats. Prompts are token ids, and nothing is added to
    them. Each answer is read as it comes, since an answer is far larger than what is kept of it.

    Raises RuntimeError, one sentence, where the server ends, refuses a prompt, gives no answer to
    any prompt for `timeout_s` seconds, or answers without `prompt_logprobs`; what `read` raises;
    and Preempted, with what is `kept`, where a signal comes meanwhile.
    """
    return asyncio.run(_read_all(server, prompts, read, k, timeout_s, kept))


async def _read_all(
    server: Server,
    prompts: Sequence[Sequence[int]],
    read: Callable[[Sequence[int], Any], Read],
    k: int,
    timeout_s: float,
    kept: str,
) -> list[Read]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_AT_ONCE),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:

        async def one(prompt: Sequence[int]) -> Read:
            return read(prompt, await _ask(session, server, prompt, k))

        tasks = [asyncio.create_task(one(prompt)) for prompt in prompts]
        pending, last_s = set(tasks), time.monotonic()
        try:
            while pending:
                interrupt.stop_if_requested(kept)
                done, pending = await asyncio.wait(
                    pending, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                # Of several that failed, the first prompt's failure is told.
                for task in tasks:
                    if task in done:
                        task.result()
                if done:
                    last_s = time.monotonic()
                elif time.monotonic() - last_s > timeout_s:
                    raise RuntimeError(
                        f"teacher: {server.record.name} gave no answer within "
                        f"eval.serving.request_timeout_s={timeout_s:g} s; give it more time"
                    )
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks]


async def _ask(
    session: aiohttp.ClientSession, server: Server, prompt: Sequence[int], k: int
) -> Any:
    body = {
        "model": server.model,
        "prompt": prompt,
        "max_tokens": 1,  # None is refused.
        "temperature": 0,
        "prompt_logprobs": k,
        "add_special_tokens": False,
    }
    url, name = f"{server.url}/v1/completions", server.record.name
    try:
        async with session.post(url, json=body, allow_redirects=False) as response:
            content = await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise RuntimeError(
            f"teacher: {name} gave no answer, as {await _why(server, error)}"
        ) from None
    try:
        answer = json.loads(content)
        if response.status != 200:
            said = str(answer["error"]["message"])[:_MOST_CHARACTERS]
            raise RuntimeError(f"teacher: {name} refused a text of {len(prompt)} tokens: {said}")
        return answer["choices"][0]["prompt_logprobs"]
    except (ValueError, LookupError, TypeError):
        raise RuntimeError(
            f"teacher: {name} answered with HTTP status {response.status} and without "
            "prompt_logprobs; take another version of vLLM, or set paradigm.signals_engine=loop"
        ) from None


async def _why(server: Server, error: Exception) -> str:
    """Why there is no connection: the server's own last words, where it has ended."""
    started_s = time.monotonic()
    while time.monotonic() - started_s < _DEATH_S:
        if why := server.why_dead():
            return why
        await asyncio.sleep(0.1)
    return f"the connection broke ({type(error).__name__}); run the same command again"
