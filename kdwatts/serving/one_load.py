"""One load on a server, under the meter, until its figures are known or the time is up."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from kdwatts.records.serving_record import ServingPoint
from kdwatts.serving.bench import Bench, seconds_until
from kdwatts.serving.client.outcomes import UNFINISHED, Outcome, Second
from kdwatts.serving.client.process import ClientProcess, Order
from kdwatts.serving.client.without_prompts import without_prompts
from kdwatts.serving.live_line import LiveLine
from kdwatts.serving.load.requests import Load, Request
from kdwatts.serving.measure.figures import is_enough, point
from kdwatts.serving.measure.phases import prefill_and_decode
from kdwatts.serving.measure.replay_remarks import (
    Asked,
    left_over_remark,
    replay_remarks,
    request_remarks,
)
from kdwatts.serving.measure.slices import Slice
from kdwatts.serving.server_energy import (
    Mark,
    gpus_of,
    mark,
    methods_of,
    scope_in_words,
    slice_between,
)

log = logging.getLogger(__name__)

DRAIN_S = 30.0
"""Requests under way may end for so long after a load was measured."""

START_S = 1.0
"""Between the start of the client and its first request: it has been fed by then."""

LAST_SENT_S = 0.25
"""After the moment of a replay's last request: it has been sent by then."""

LATEST_PROMPTS = 1024
"""That the last words of a server may quote: those under way, and those made ahead."""

IDLE_SLICES = 4
"""Of the server with nothing to do."""


@dataclass(frozen=True)
class _Sent:
    """What came of one load."""

    outcomes: list[Outcome]
    seconds: list[Second]
    slices: list[Slice]
    scope: str
    asked: dict[int, Asked]
    """Number of a request to what it asked for."""


def measure_load(bench: Bench, load: Load) -> ServingPoint:
    """The figures of one load.

    Raises RuntimeError, in one sentence, for a server or a client that ended. The joules until
    then are in the window of the meter, which is marked as failed.
    """
    return _figures(bench, load, _send(bench, load, "load"))


def measure_idle_server(bench: Bench) -> list[Slice]:
    """The server with nothing to do before its first load. None of it for one without counters.

    Without these slices the fit of `measure_load_and_phases` has three unknowns and two mixes: in a
    closed loop, time and tokens grow alike. Raises RuntimeError for a server that ended.
    """
    if not bench.server.read_counters():
        return []
    slices, last = [], None
    with bench.window("idle_server"):
        for number in range(IDLE_SLICES + 1):
            if why := bench.server.why_dead():
                raise RuntimeError(why)
            now = mark(bench.meter, bench.server, None)
            if last is not None:
                slices.append(slice_between(bench.meter, last, now, bench.server))
            last = now
            if number < IDLE_SLICES:
                for _ in seconds_until(time.monotonic() + bench.batch_s):
                    pass
    return slices


def measure_load_and_phases(bench: Bench, load: Load, idle: Sequence[Slice]) -> ServingPoint:
    """The figures of one load, with reading and writing told apart where the engine has counters.

    A second load follows there: prompts that ask for one token. The two mixes, and the `idle`
    server of `measure_idle_server`, together tell the joules of reading from those of writing. A
    load that failed is followed by none, and so is a replay, whose load changes all the time.
    Raises RuntimeError as `measure_load`.
    """
    sent = _send(bench, load, "load")
    figures = _figures(bench, load, sent)
    if figures.verdict == "failed" or load.is_replay:
        return figures
    if not any(one.counters for one in sent.slices):
        return figures
    reading = _send(bench, load, "prefill", output_tokens=1)
    prefill, decode = prefill_and_decode([*idle, *sent.slices, *reading.slices])
    return replace(figures, prefill_j_per_token=prefill, decode_j_per_token=decode)


def _figures(bench: Bench, load: Load, sent: _Sent) -> ServingPoint:
    figures = point(
        load,
        sent.outcomes,
        sent.seconds,
        sent.slices,
        slo=bench.settings.slo,
        seed=bench.seed,
        min_window_s=bench.settings.min_window_s,
        counter_period_s=bench.counter_period_s,
    )
    of_requests = request_remarks(sent.outcomes, sent.asked)
    if part := bench.part(load):
        of_requests += replay_remarks(part, sent.outcomes, sent.asked)
        if figures.verdict == "steady":
            of_requests += left_over_remark(sent.outcomes)
    return replace(figures, scope=sent.scope, remarks=[*figures.remarks, *of_requests])


def _send(bench: Bench, load: Load, name: str, *, output_tokens: int | None = None) -> _Sent:
    """Send requests until there are enough answers, in a window of the meter.

    Their numbers begin at 0 again, as of each load's. With `output_tokens` each asks for so many,
    whatever the workload says.
    """
    asked: dict[int, Asked] = {}
    prompts: deque[str] = deque(maxlen=LATEST_PROMPTS)

    part = bench.part(load)
    source = bench.logged.replay(part) if bench.logged and part else bench.requests
    start_s = time.monotonic() + START_S

    def requests() -> Iterator[Request]:
        for number, one in enumerate(source):
            tokens = output_tokens or one.output_tokens
            is_forced = (one.length or settings.workload.length) == "forced"
            due_s = None if one.due_s is None else start_s + one.due_s
            asked[number] = Asked(tokens, is_forced, one.is_cut, one.is_repeated, due_s)
            prompts.append(one.prompt)
            yield replace(one, number=number, output_tokens=tokens)

    settings, meter, server = bench.settings, bench.meter, bench.server
    order = Order(
        url=server.url,
        model=server.model,
        dialect=server.dialect,
        load=load,
        seed=bench.seed,
        length=settings.workload.length,
        start_s=start_s,
        request_timeout_s=settings.request_timeout_s,
        drain_s=DRAIN_S,
    )
    with (
        bench.window(f"{name}_{load.kind}_{load.level:g}") as window,
        ClientProcess(order, requests()) as client,
    ):
        power_w = meter.live_power_w if server.meter is None else None
        live_line = LiveLine(load, power_w, what=", one token each" if output_tokens else "")
        slices, last = [], mark(meter, server, client.pid)
        end_s = start_s + part.last_s + LAST_SENT_S if part else None
        for now in _marks(bench, client, live_line, last, prompts, end_s):
            slices.append(slice_between(meter, last, now, server))
            last = now
            live_line.take(slices)
            if part is None and is_enough(
                load,
                *client.seen(),
                slices,
                slo=settings.slo,
                min_window_s=settings.min_window_s,
                counter_period_s=bench.counter_period_s,
            ):
                break
        client.stop()
        outcomes, seconds = client.seen()
        say_failures(load, outcomes)
        # The joules of requests that failed are in the window, and their tokens never count.
        worked = [one for one in outcomes if one.failure in (None, UNFINISHED)]
        window.tokens += sum(tokens for one in worked for _, tokens in one.chunks)
    assert window.row
    methods = methods_of(slices) if server.meter else window.row.method
    own, of_job = len(gpus_of(meter, server)), len((server.meter or meter).gpus)
    scope = scope_in_words(methods, server, num_gpus=own, num_gpus_of_job=of_job)
    return _Sent(outcomes, seconds, slices, scope, asked)


def say_failures(load: Load, outcomes: Sequence[Outcome]) -> None:
    """Log the server's words about the first failure of each kind: a kind says not what to mend."""
    first: dict[str, str | None] = {}
    for one in outcomes:
        if one.failure not in (None, UNFINISHED):
            first.setdefault(one.failure, one.detail)
    for kind, words in first.items():
        log.warning("serving: %s: a request failed (%s): %s", load, kind, words or "no words")


def _marks(
    bench: Bench,
    client: ClientProcess,
    live_line: LiveLine,
    first: Mark,
    prompts: Collection[str],
    end_s: float | None,
) -> Iterator[Mark]:
    """A mark every batch after the first one, until the time for one load is up.

    A replay ends at `end_s`, its last request: its last batch is one to two long.

    A batch begins at the mark before it, wherever that was: a mark waits for the GPUs' counters,
    and comes late on a busy machine. At fixed times the next slice would be below 2 s then, of
    which a GPU tells nothing, and the load would have no joules.
    """
    last = first
    most_s = first.time_s + bench.settings.max_window_s if end_s is None else end_s
    while last.time_s < most_s:
        next_s = last.time_s + bench.batch_s
        if end_s is not None and end_s - next_s < bench.batch_s:
            next_s = max(next_s, end_s)
        for _ in seconds_until(next_s):
            live_line.look(client)
            if why := bench.server.why_dead() or client.why_dead():
                raise RuntimeError(without_prompts(why, tuple(prompts)))
        last = mark(bench.meter, bench.server, client.pid)
        yield last
