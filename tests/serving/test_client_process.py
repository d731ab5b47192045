"""The client as a process: what it imports, what it writes, and how it ends."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdwatts.runtime import interrupt
from kdwatts.serving.client.process import ClientProcess, Order
from kdwatts.serving.load.arrivals import arrival_times
from kdwatts.serving.load.requests import Load, Request
from tests.waits import wait_until

ROOT = Path(__file__).parents[2]
SECRET = "nobody may read this anywhere"
Start = Callable[..., str]


def requests(output_tokens: int = 4) -> Iterator[Request]:
    for number in itertools.count():
        yield Request(number, [1, 2, 3, 4, 5], SECRET, output_tokens)


def order(url: str, load: Load | None = None, **more: Any) -> Order:
    plain = Order(
        url=url,
        model="timetable",
        dialect="vllm",
        load=load or Load("closed", 4),
        seed=3,
        length="forced",
        start_s=time.monotonic() + 0.5,
        request_timeout_s=20.0,
        drain_s=5.0,
    )
    return replace(plain, **more)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_client_imports_no_library_of_models_and_no_tables():
    script = (
        "import sys, kdwatts.serving.client.__main__; print([name for name in ('torch', "
        "'transformers', 'tokenizers', 'datasets', 'pandas', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_sends_until_it_is_stopped_and_every_request_has_one_outcome(
    timetable_server: Start,
):
    url = timetable_server(slots=4, first_tokens=1, chunk_tokens=3)
    with ClientProcess(order(url), requests()) as client:
        wait_until(lambda: len(client.seen()[0]) > 10)
        assert client.why_dead() is None
        assert client.pid != os.getpid()
        assert os.getsid(client.pid) == client.pid, "Ctrl-C in a terminal does not reach it"
        client.stop()
        outcomes, seconds = client.seen()
        assert client.why_dead() is None
    assert [one.failure for one in outcomes] == [None] * len(outcomes)
    assert sorted(one.number for one in outcomes) == list(range(len(outcomes)))
    assert [tokens for _, tokens in outcomes[0].chunks] == [1, 3]
    assert (outcomes[0].prompt_tokens, outcomes[0].output_tokens) == (5, 4)
    last = seconds[-1]
    assert (last.sent, last.ended, last.in_flight) == (len(outcomes), len(outcomes), 0)
    assert last.client_cpu_s > 0
    assert is_gone(client.pid)


def test_an_open_load_is_sent_at_the_times_of_its_seed(timetable_server: Start):
    load = Load("poisson", 100.0)
    wanted = order(timetable_server(slots=64), load)
    with ClientProcess(wanted, requests()) as client:
        wait_until(lambda: len(client.seen()[0]) > 20)
        client.stop()
        outcomes = sorted(client.seen()[0], key=lambda one: one.number)
    times_s = itertools.islice(arrival_times(load, seed=3), len(outcomes))
    assert [one.scheduled_s for one in outcomes] == [wanted.start_s + t for t in times_s]


def test_a_client_that_was_stopped_for_a_time_shows_it_as_send_lag(timetable_server: Start):
    load = Load("constant", 50.0)
    wanted = order(timetable_server(slots=64), load)
    with ClientProcess(wanted, requests()) as client:
        wait_until(lambda: client.seen()[0])
        os.kill(client.pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        time.sleep(0.6)
        resumed_s = time.monotonic()
        os.kill(client.pid, signal.SIGCONT)
        wait_until(lambda: client.seen()[0][-1].scheduled_s > resumed_s)
        client.stop()
        outcomes = sorted(client.seen()[0], key=lambda one: one.number)
    planned_s = [wanted.start_s + (number + 1) / 50 for number in range(len(outcomes))]
    assert [one.scheduled_s for one in outcomes] == pytest.approx(planned_s)
    late = [one for one in outcomes if stopped_s + 0.05 < one.scheduled_s < resumed_s - 0.05]
    assert len(late) >= 24
    assert all((one.sent_s or 0) >= resumed_s for one in late)


def test_the_wall_clock_plays_no_part(
    timetable_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Python imports a module of this name at its start.
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, hours = time.time, itertools.cycle((-1, 1))\n"
        "time.time = lambda: real() + 3600 * next(hours)\n"
        "import sys; print('the clock jumps', file=sys.stderr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    wanted = order(timetable_server(slots=64), Load("constant", 50.0))
    with ClientProcess(wanted, requests()) as client:
        wait_until(lambda: len(client.seen()[0]) > 20)
        client.stop()
        outcomes, seconds = client.seen()
        client._words.seek(0)
        assert client._words.read() == b"the clock jumps\n"
    assert {one.failure for one in outcomes} == {None}
    now_s = time.monotonic()
    for one in outcomes:
        assert wanted.start_s <= one.scheduled_s <= (one.sent_s or 0) <= one.ended_s <= now_s
    assert all(wanted.start_s <= second.time_s <= now_s for second in seconds)


def test_no_line_of_the_client_holds_text_of_a_prompt(timetable_server: Start):
    wanted = order(timetable_server(fault="400", fault_every=2), dialect="transformers")
    with subprocess.Popen(
        [sys.executable, "-m", "kdwatts.serving.client"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        lines = [asdict(wanted), *map(asdict, itertools.islice(requests(), 8))]
        process.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
        process.stdin.flush()
        out = b""
        while out.count(b'"number"') < 8:
            out += process.stdout.readline()
        process.terminate()
        out += process.stdout.read()
        assert process.wait() == 0
        said = process.stderr.read()
    assert out.count(b"it quotes the prompt") == 4
    assert b"nobody" not in out and b"nobody" not in said
    assert said == b""


def test_the_end_of_its_input_ends_a_client_at_once(timetable_server: Start):
    wanted = order(timetable_server(fault="stall"), drain_s=1000.0)
    with subprocess.Popen(
        [sys.executable, "-m", "kdwatts.serving.client"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout
        # More than it reads ahead, so that the end comes while it does not read.
        lines = [asdict(wanted), *map(asdict, itertools.islice(requests(), 500))]
        process.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
        process.stdin.flush()
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_a_killed_parent_leaves_no_client(timetable_server: Start):
    script = (
        "import sys, time\n"
        "from tests.serving.test_client_process import order, requests\n"
        "from kdwatts.serving.client.process import ClientProcess\n"
        "with ClientProcess(order(sys.argv[1]), requests()) as client:\n"
        "    print(client.pid, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    url = timetable_server(fault="stall")
    command = [sys.executable, "-c", script, url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    wait_until(lambda: is_gone(pid))


def test_a_client_that_died_is_said_with_its_last_words(timetable_server: Start):
    wanted = order(timetable_server(), dialect="no such dialect")
    with ClientProcess(wanted, requests()) as client:
        wait_until(client.why_dead)
        assert client.why_dead() == (
            "the process that sends requests ended with exit code 1: KeyError: 'no such dialect'"
        )
        client.stop()
        assert client.why_dead()


def test_a_client_that_was_killed_is_said(timetable_server: Start):
    with ClientProcess(order(timetable_server()), requests()) as client:
        wait_until(lambda: client.seen()[0])
        os.kill(client.pid, signal.SIGKILL)
        wait_until(client.why_dead)
        assert client.why_dead() == (
            "the process that sends requests ended with signal SIGKILL: it said nothing"
        )
        client.stop()
        assert client.seen()[0]


def test_requests_that_cannot_be_made_are_said(timetable_server: Start):
    def short() -> Iterator[Request]:
        yield from itertools.islice(requests(), 2)
        raise ValueError("the text ended")

    with ClientProcess(order(timetable_server()), short()) as client:
        wait_until(client.why_dead)
        assert client.why_dead() == "requests could not be made: the text ended"
        wait_until(lambda: len(client.seen()[0]) == 2)


def test_requests_are_made_only_so_far_ahead(timetable_server: Start):
    made = itertools.count()

    def counted() -> Iterator[Request]:
        for request in requests():
            next(made)
            yield replace(request, prompt="x" * 10_000)

    with ClientProcess(order(timetable_server(fault="stall")), counted()) as client:
        wait_until(lambda: client.seen()[1])
        time.sleep(0.3)
    # 64 prepared, 64 read, and what the pipe and one read of it hold.
    assert next(made) < 64 + 64 + 2 * (256 * 1024 // 10_000)


def test_a_stopped_process_is_killed_after_the_drain(
    timetable_server: Start, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kdwatts.serving.client.process.END_S", 0.2)
    with ClientProcess(order(timetable_server(), drain_s=0.1), requests()) as client:
        wait_until(lambda: client.seen()[0])
        os.kill(client.pid, signal.SIGSTOP)
        client.stop()
        assert is_gone(client.pid)
        assert client.seen()[0]


def test_leaving_the_context_by_an_error_leaves_no_thread_and_no_process(timetable_server: Start):
    before = set(threading.enumerate())
    with (
        pytest.raises(ZeroDivisionError),
        ClientProcess(order(timetable_server()), requests()) as client,
    ):
        raise ZeroDivisionError
    assert is_gone(client.pid)
    assert set(threading.enumerate()) <= before


def test_a_signal_during_the_drain_ends_it(timetable_server: Start):
    url = timetable_server(fault="stall", fault_chunks=1)
    with (
        interrupt.deferred(),
        pytest.raises(interrupt.Preempted),
        ClientProcess(order(url, drain_s=10_000.0), requests()) as client,
    ):
        wait_until(lambda: client.seen()[1] and client.seen()[1][-1].in_flight)
        os.kill(os.getpid(), signal.SIGTERM)
        client.stop()
    assert is_gone(client.pid)
