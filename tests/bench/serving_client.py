"""How late one core sends to a server on a timetable: `python -m tests.bench.serving_client`.

The client has a core of its own; the server, and this process, which makes requests and reads what
became of them, share the others. A p99 send lag of 10 ms or more makes a load client-bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdwatts.serving.client.process import ClientProcess, Order
from kdwatts.serving.load.requests import Load, Request

SERVER = Path(__file__).parents[1] / "serving" / "timetable_server.py"
COLUMNS = (
    *("asked /s", "sent /s", "lag p50 ms", "lag p99 ms", "lag max ms"),
    *("CPU ms/request", "CPU %", "failed"),
)
WIDTH = 14


def requests(prompt_tokens: int, output_tokens: int) -> Iterator[Request]:
    """Requests of one length."""
    ids = list(range(1000, 1000 + prompt_tokens))
    for number in itertools.count():
        yield Request(number, ids, "word " * prompt_tokens, output_tokens)


def row(url: str, rate_per_s: float, core: int, settings: argparse.Namespace) -> list[float]:
    """One line of the table; the first two seconds are left out."""
    start_s = time.monotonic() + 2.0
    order = Order(
        url=url,
        model="timetable",
        dialect="vllm",
        load=Load("poisson", rate_per_s),
        seed=0,
        length="forced",
        start_s=start_s,
        request_timeout_s=30.0,
        drain_s=5.0,
    )
    made = requests(settings.prompt_tokens, settings.output_tokens)
    with ClientProcess(order, made) as client:
        os.sched_setaffinity(client.pid, {core})
        time.sleep(start_s + 2.0 + settings.duration_s - time.monotonic())
        client.stop()
        outcomes, seconds = client.seen()
    first_s, last_s = start_s + 2.0, start_s + 2.0 + settings.duration_s
    within = [one for one in outcomes if first_s <= one.scheduled_s < last_s]
    lags_ms = [1000 * (one.sent_s - one.scheduled_s) for one in within if one.sent_s is not None]
    counted = [second for second in seconds if first_s <= second.time_s <= last_s]
    begin, end = counted[0], counted[-1]
    cpu_s, passed_s = end.client_cpu_s - begin.client_cpu_s, end.time_s - begin.time_s
    return [
        rate_per_s,
        len(within) / settings.duration_s,
        *np.percentile(lags_ms, [50, 99, 100]).tolist(),
        1000 * cpu_s / (end.sent - begin.sent),
        100 * cpu_s / passed_s,
        sum(one.failure is not None for one in within),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--duration-s", type=float, default=20.0, help="of a rate, 3 or more")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=8)
    settings = parser.parse_args()
    core, *others = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(0, others)
    timetable = json.dumps({"slots": 1000, "ttft_s": 0.02, "gap_s": 0.005})
    with subprocess.Popen(
        [sys.executable, str(SERVER), timetable],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        url = server.stdout.readline().split()[1]
        print(" | ".join(f"{name:>{WIDTH}}" for name in COLUMNS), flush=True)
        for rate_per_s in settings.rates:
            values = row(url, rate_per_s, core, settings)
            print(" | ".join(f"{value:{WIDTH}.2f}" for value in values), flush=True)
        server.kill()


if __name__ == "__main__":
    main()
