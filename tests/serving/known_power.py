"""Loads on a server whose power is known, measured as a run does it, several at once.

`measure(nvml_dir, out_dir, cases)` runs every case in a process of its own, forked from one that
has imported everything. The server keeps a timetable, its GPU is the replaying NVML library, and
all else is real: the meter, the client's process, the loads, their figures. Processes sleep for
nearly all of their time.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdwatts.config.machine import Telemetry
from kdwatts.config.serving import RunningServers, Serving, Slo, Workload
from kdwatts.records.serving_record import ServingPoint, ServingRecord
from kdwatts.serving import one_load, session
from kdwatts.serving.client.outcomes import Outcome, Second
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.load.prompt_text import PromptText
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.slices import Slice
from kdwatts.serving.measure.steady_start import steady_window
from kdwatts.telemetry.meter import Meter
from tests.serving.other_host import meter_elsewhere
from tests.serving.powered_server import Power

REPOSITORY = Path(__file__).parents[2]
JUMPING_CLOCK = Path(__file__).parent / "jumping_clock"

PROMPT_TOKENS, OUTPUT_TOKENS = 20, 18
TTFT_S, GAP_S = 0.06, 0.02
AT_ONCE = 6
"""Cases that are measured together: with more, two cores are late."""
LATENCY_S = TTFT_S + (OUTPUT_TOKENS - 1) * GAP_S
"""0.4 s of a slot."""


@dataclass(frozen=True)
class Case:
    """One server and one way to load it."""

    name: str
    serving: dict[str, Any] = field(default_factory=dict)
    """Settings of Serving, but its workload and its address."""
    workload: dict[str, Any] = field(default_factory=dict)
    slo: dict[str, float] = field(default_factory=dict)
    timetable: dict[str, Any] = field(default_factory=dict)
    """Settings of Timetable. Its moments count from the start of the case."""
    power: dict[str, float] = field(default_factory=dict)
    counter_period_ms: int = 20
    phase_ms: float = 0.0
    """By so much the counter's updates come later than at round times."""
    event: str = ""
    """What happens meanwhile: one of EVENTS."""
    seed: int = 0
    elsewhere_ahead_s: float | None = None
    """The GPU is on another host, whose clocks are so many seconds ahead; None for this host."""


@dataclass(frozen=True)
class Sent:
    """One load as it was seen."""

    load: Load
    outcomes: list[Outcome]
    seconds: list[Second]
    slices: list[Slice]

    @property
    def window_s(self) -> tuple[float, float]:
        """Monotonic seconds of the window that the figures are of."""
        window = steady_window(self.load, self.outcomes, self.seconds, self.slices)
        assert window
        return window.start_s, window.end_s


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    case: Case
    record: ServingRecord | None
    sent: list[Sent]
    """The loads whose figures were made, in the order of measurement."""
    server: dict[str, list[list[float]]]
    """The server's own log: start, first token and end of each request; moments of tokens."""
    error: str
    """The last line of what was raised; empty where nothing was."""
    rows: list[dict[str, Any]]
    """stages.jsonl."""
    log: str

    @property
    def point(self) -> ServingPoint:
        assert self.record, self.error
        return self.record.points[0]

    def true_j(self, from_s: float, to_s: float) -> float:
        """P0 D + watts x busy seconds, from the server's own log."""
        power = Power("", **self.case.power)
        start_s, first_s, end_s = np.array(self.server["held"]).reshape(-1, 3).T

        def seconds(begin_s: np.ndarray, finish_s: np.ndarray) -> float:
            inside_s = np.minimum(finish_s, to_s) - np.maximum(begin_s, from_s)
            return float(np.maximum(inside_s, 0).sum())

        return (
            power.idle_w * (to_s - from_s)
            + power.reading_w * seconds(start_s, first_s)
            + power.writing_w * seconds(first_s, end_s)
        ) * power.gpus

    def true_tokens(self, name: str, from_s: float, to_s: float) -> float:
        """Tokens of `tokens` or `prompts` in the server's own log."""
        return sum(count for at_s, count in self.server[name] if from_s <= at_s < to_s)

    @property
    def true_j_per_token(self) -> float:
        """Of the first load that was measured, from the server's own log of its window."""
        window_s = self.sent[0].window_s
        tokens = sum(self.true_tokens(name, *window_s) for name in ("tokens", "prompts"))
        return self.true_j(*window_s) / tokens

    @property
    def share_at_edges(self) -> float:
        """The share of the window's tokens that an edge may take or leave.

        A client sees them up to 20 ms after the server. Requests that go in step have the tokens of
        all their prompts at one moment: 80 of the 8,250 that four of them have in 22 s.
        """
        logged = [*self.server["tokens"], *self.server["prompts"]]
        from_s, to_s = self.sent[0].window_s
        near = (
            n for at_s, n in logged if any(abs(edge_s - at_s) < 0.02 for edge_s in (from_s, to_s))
        )
        return sum(near) / sum(n for at_s, n in logged if from_s <= at_s < to_s)

    def check_joules_per_token(self) -> None:
        """Raise unless they are measured, and those of the server's own log within their interval.

        Chunks arrive some 10 ms late where tests share a machine: 1 % of a window of a few seconds.
        The slow tests hold longer ones to 1 %.
        """
        figure = self.point.j_per_token
        assert figure.value
        assert abs(figure.value / self.true_j_per_token - 1) <= 0.03 + self.share_at_edges
        assert figure.low and figure.high
        assert figure.low <= self.true_j_per_token <= figure.high
        assert self.point.energy_quality == "measured"


class Words:
    """A tokenizer whose tokens are words, so that text has as many as it was cut with."""

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The ids as words."""
        return " ".join(map(str, ids))


def measure(nvml_dir: Path, out_dir: Path, cases: Sequence[Case]) -> dict[str, Result]:
    """Every case measured, by name. Raises RuntimeError with the log of a case that failed."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "cases.pickle").write_bytes(pickle.dumps(list(cases)))
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["LD_LIBRARY_PATH"] = str(nvml_dir)
    command = [sys.executable, "-m", "tests.serving.known_power", str(out_dir)]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, timeout=580)
    results = {}
    for number, case in enumerate(cases):
        path = out_dir / str(number) / "result.pickle"
        if not path.exists():
            raise RuntimeError(f"{case.name}: {(path.parent / 'log.txt').read_text()}")
        results[case.name] = pickle.loads(path.read_bytes())
    return results


def _measure_all(out_dir: Path) -> None:
    running: set[int] = set()
    for number, case in enumerate(pickle.loads((out_dir / "cases.pickle").read_bytes())):
        folder = out_dir / str(number)
        folder.mkdir()
        child = os.fork()
        if child == 0:
            try:
                _measure(case, folder)
            except BaseException:
                with (folder / "log.txt").open("a") as file:
                    file.write(traceback.format_exc())
            finally:
                os._exit(0)
        running.add(child)
        if len(running) == AT_ONCE:
            running.remove(os.wait()[0])
    for child in running:
        os.waitpid(child, 0)


@contextmanager
def _server(case: Case, trace_path: Path, start_s: float) -> Iterator[tuple[int, str]]:
    """Process and address of the case's server."""
    standard = {"ttft_s": TTFT_S, "gap_s": GAP_S, "usage": "always", "owned_by": "vllm"}
    settings = standard | {"metrics": False} | case.timetable
    for name in {"stall_at_s", "counters_restart_at_s"} & set(case.timetable):
        settings[name] += time.monotonic()
    power = {"trace_path": str(trace_path), "start_s": start_s, **case.power}
    command = [sys.executable, "-m", "tests.serving.powered_server"]
    process = subprocess.Popen(
        [*command, json.dumps(settings), json.dumps(power)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield process.pid, process.stdout.readline().split()[1]
    finally:
        process.kill()
        process.wait()


@contextmanager
def _elsewhere(case: Case, folder: Path) -> Iterator[tuple[int | None, str | None]]:
    """Process and address of the meter on another host. This one has no GPU then."""
    if case.elsewhere_ahead_s is None:
        yield None, None
        return
    with meter_elsewhere(folder / "there", ahead_s=case.elsewhere_ahead_s) as found:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        yield found


def _measure(case: Case, folder: Path) -> None:
    logging.basicConfig(filename=folder / "log.txt", level=logging.INFO, force=True)
    start_s = int(time.monotonic()) - 1 - case.phase_ms / 1e3
    settings = {
        "trace": folder / "trace.txt",
        "live": 1,
        "start_s": start_s,
        "counter_period_ms": case.counter_period_ms,
    }
    os.environ.update({f"NVML_REPLAY_{name.upper()}": str(v) for name, v in settings.items()})
    sent: list[Sent] = []
    record, error, log = None, "", {}
    with (
        _server(case, folder / "trace.txt", start_s) as (server_pid, url),
        _elsewhere(case, folder) as (meter_pid, meter_url),
    ):
        _watch_loads(sent, case, meter_pid or server_pid)
        lengths = {"prompt_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        workload: dict[str, Any] = lengths | case.workload
        others: dict[str, Any] = {"parking_settle_s": 0.0, "parking_s": 0.0} | case.serving
        serving = Serving(
            engine="url",
            workload=Workload(**workload),
            slo=Slo(**case.slo),
            url=RunningServers(student=url, student_meter=meter_url),
            **others,
        )
        try:
            with Meter(folder, Telemetry(rapl_root="/nowhere")) as meter:
                record = session.serve_and_measure(
                    serving,
                    ServedModel("student", "student", "float32", None, None),
                    PromptText(np.arange(50_000), Words(), key="words"),
                    meter,
                    seed=case.seed,
                    measurement=1,
                    log_path=folder / "server.log",
                )
        except Exception as raised:
            error = traceback.format_exception_only(raised)[-1].strip()
            logging.exception("what was raised")
        with suppress(OSError), urllib.request.urlopen(f"{url}/log", timeout=20) as answer:
            log = json.load(answer)
    rows = [json.loads(line) for line in (folder / "stages.jsonl").read_text().splitlines()]
    text = (folder / "log.txt").read_text()
    result = Result(case, record, sent, log, error, rows, text)
    (folder / "result.pickle").write_bytes(pickle.dumps(result))


def _watch_loads(sent: list[Sent], case: Case, server_pid: int) -> None:
    """Keep what figures are made of, and let the event of the case happen."""
    make_figures, Client = one_load.point, one_load.ClientProcess

    def point(load: Load, outcomes: Any, seconds: Any, slices: Any, **how: Any) -> ServingPoint:
        sent.append(Sent(load, outcomes, seconds, slices))
        return make_figures(load, outcomes, seconds, slices, **how)

    class WatchedClient(Client):
        def __enter__(self) -> WatchedClient:
            super().__enter__()
            if case.event:
                work = EVENTS[case.event]
                threading.Thread(target=work, args=(self.pid, server_pid), daemon=True).start()
            return self

    one_load.point, one_load.ClientProcess = point, WatchedClient
    if case.event == "the clock jumps":
        # The client takes over our sys.path, and with it this.
        sys.path.insert(0, str(JUMPING_CLOCK))
        exec((JUMPING_CLOCK / "sitecustomize.py").read_text(), {})


def _stop_client(client_pid: int, server_pid: int) -> None:
    """For 2 s again and again: what happened once may be left out as before the steady part."""
    with suppress(ProcessLookupError):
        while True:
            time.sleep(2.5)
            os.kill(client_pid, signal.SIGSTOP)
            time.sleep(2.0)
            os.kill(client_pid, signal.SIGCONT)


def _stop_client_once(client_pid: int, server_pid: int) -> None:
    """So late that it is in the window, where that has 20 s: at most half of a load is left out."""
    time.sleep(15.0)
    os.kill(client_pid, signal.SIGSTOP)
    time.sleep(2.0)
    os.kill(client_pid, signal.SIGCONT)


def _kill_server(client_pid: int, server_pid: int) -> None:
    time.sleep(4.0)
    os.kill(server_pid, signal.SIGKILL)


EVENTS: dict[str, Callable[[int, int], None]] = {
    "the client stops": _stop_client,
    "the client stops once": _stop_client_once,
    "the server dies": _kill_server,
    "the meter dies": _kill_server,
    "the clock jumps": lambda client_pid, server_pid: None,
}


if __name__ == "__main__":
    # Results are read by whoever imports this module by its name.
    from tests.serving import known_power

    known_power._measure_all(Path(sys.argv[1]))
