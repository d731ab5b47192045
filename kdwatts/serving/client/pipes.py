"""The client's standard input and output, which sending never waits for."""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from io import FileIO
from typing import Any

import orjson

LINES_AHEAD = 64
"""Requests that are read before they are needed. More would be made for nothing."""


class Lines(asyncio.Protocol):
    """Lines of a pipe, read only so far ahead."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._lines: deque[bytes] = deque()
        self._come = asyncio.Event()
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the pipe is there."""
        assert isinstance(transport, asyncio.ReadTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with what came: any number of bytes, which end anywhere."""
        first, *more = data.split(b"\n")
        self._begun.append(first)
        if not more:
            return
        self._lines.append(b"".join(self._begun))
        *whole, rest = more
        self._lines.extend(whole)
        self._begun = [rest]
        self._come.set()
        if len(self._lines) >= LINES_AHEAD:
            self._is_paused = True
            self._transport.pause_reading()

    async def next(self) -> bytes:
        """The next line, once it has come."""
        while not self._lines:
            self._come.clear()
            await self._come.wait()
        line = self._lines.popleft()
        if self._is_paused and len(self._lines) < LINES_AHEAD // 2:
            self._is_paused = False
            self._transport.resume_reading()
        return line


async def lines_of(pipe: FileIO) -> Lines:
    """The lines of a pipe that the loop reads from now on.

    This process ends at once when nobody is left at the other end, whether the pipe was read to
    its end or not.
    """
    loop = asyncio.get_running_loop()
    _, lines = await loop.connect_read_pipe(Lines, pipe)
    # A hang-up alone is waited for: it comes even while reading is paused.
    hang_up = select.epoll()
    hang_up.register(pipe.fileno(), 0)
    loop.add_reader(hang_up, os._exit, 0)
    return lines


class Output(asyncio.Protocol):
    """Lines of JSON into a pipe. What its reader has not taken yet waits in memory."""

    def __init__(self) -> None:
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the pipe is there."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when all is written, or its reader is gone."""
        del exc
        if not self._closed.done():
            self._closed.set_result(None)

    def write(self, line: Any) -> None:
        """Add a line: a dataclass, or a dict."""
        self._transport.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    async def close(self) -> None:
        """Wait until the reader took everything, or is gone."""
        self._transport.close()
        await self._closed


async def output_to(pipe: FileIO) -> Output:
    """Output into a pipe, which must not be written to otherwise."""
    _, output = await asyncio.get_running_loop().connect_write_pipe(Output, pipe)
    return output
