"""The client process: an order and requests on standard input, what became of them on its output.

    python -m kdwatts.serving.client

is started by ClientProcess. It imports little, so that its CPU time is that of sending.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import signal
from io import FileIO

import orjson

from kdwatts.serving.client.completions import Prepared, Target, new_session
from kdwatts.serving.client.driving import Schedule, drive
from kdwatts.serving.client.pipes import lines_of, output_to
from kdwatts.serving.client.process import Order, order_of
from kdwatts.serving.engines.dialects import DIALECTS
from kdwatts.serving.load.arrivals import GAPS, arrival_times
from kdwatts.serving.load.requests import Request


async def obey(order: Order, stdin: FileIO, stdout: FileIO) -> None:
    """Send the requests that come on standard input, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # Whoever started us held it back until there is somebody who heeds it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    output, lines = await output_to(stdout), await lines_of(stdin)
    write_body = DIALECTS[order.dialect]

    async def next_request() -> Prepared:
        request = Request(**orjson.loads(await lines.next()))
        body = orjson.dumps(write_body(order.model, request, request.length or order.length))
        return Prepared(
            request.number,
            body,
            request.prompt,
            len(request.prompt_ids),
            request.due_s,
            request.session,
        )

    load = order.load
    schedule = Schedule(
        order.start_s,
        slots=int(load.level) if load.is_closed else None,
        # Of a replay each request says itself when it is due.
        arrivals_s=arrival_times(load, seed=order.seed) if load.kind in GAPS else None,
    )
    async with new_session() as session:
        url = f"{order.url}/v1/completions"
        target = Target(session, url, order.request_timeout_s)
        # What exists by now lives to the end: a collection need not go through it.
        gc.freeze()
        await drive(schedule, next_request, target, output.write, stop=stop, drain_s=order.drain_s)
    await output.close()


def main() -> None:
    """Read the order and obey it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no client outlives its parent.
    # An open load may have as many connections as a time-out has requests.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stdin, stdout = FileIO(0, closefd=False), FileIO(1, "w", closefd=False)
    try:
        asyncio.run(obey(order_of(stdin.readline()), stdin, stdout))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


if __name__ == "__main__":
    main()
