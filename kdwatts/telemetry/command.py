"""A command under the meter, or the meter beside a job: `python -m kdwatts.telemetry`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from pynvml import NVMLError

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import check_schema, read_json, write_json
from kdwatts.records.schema import COMPONENTS, SCHEMA, StageRow
from kdwatts.runtime.paths import expanded, new_dated_dir
from kdwatts.runtime.ranks import place_on_node
from kdwatts.runtime.streams import aligned
from kdwatts.runtime.whole_install import EXIT_REFUSED
from kdwatts.telemetry import nvml, rapl, supervisor
from kdwatts.telemetry.descendants import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, SIGNALS
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.supervisor import Supervisor
from kdwatts.telemetry.tallies_over_http import Listener, listener_at

log = logging.getLogger(__name__)

SUMMARY_NAME = "summary.json"
ROWS_NAMES = ("telemetry.jsonl", "stages.jsonl")
DEFAULT_DIR = Path("runs/telemetry")

_ENDS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that end a job; the others ask it for something."""

_TAIL_BYTES = 65_536
"""More than one row."""


class _Stopped(Exception):
    """A signal came before there was anything to measure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} before anything was measured")
        self.exit_code = 128 + number


class _Failed(Exception):
    """The command failed, so that its window says so."""


def measure(
    command: Sequence[str] | None,
    settings: Telemetry,
    out_dir: Path | None,
    *,
    listen: str | None = None,
    pids: Sequence[int] = (),
) -> int:
    """The exit code after a command was measured. Without a command, it measures until a signal.

    With `listen` it answers there meanwhile; `pids` are those of a server that runs already.
    Once the command has started, the exit code is the command's, even if the meter fails.
    """
    logging.basicConfig(level=logging.WARNING, format="kdwatts: %(message)s", stream=sys.stderr)
    path = shutil.which(command[0]) if command else None
    if command and path is None:
        sentence, exit_code = _not_startable(command[0])
        _print(sentence)
        return exit_code
    try:
        if command is None:
            warn_unmeasurable(settings)
        listener = None if listen is None else listener_at(listen, pids)
        folder = new_dated_dir(DEFAULT_DIR) if out_dir is None else out_dir
        attempt = _open_folder(folder)
    except (OSError, ValueError, NVMLError) as error:
        _print(_sentence(error))
        return EXIT_REFUSED
    again = "" if attempt == 1 else f", as attempt {attempt} after the earlier rows"
    _print(f"records go to {folder}{again}")
    child = supervisor.start(path, command) if command and path else None
    try:
        return _measure(command, child, settings, folder, attempt, listener, pids)
    except _Stopped as stop:
        _print(str(stop))
        exit_code = stop.exit_code
    except (ValueError, RuntimeError, OSError, NVMLError) as error:
        _print(_sentence(error).replace("set telemetry.allow_shared=true", "give --allow-shared"))
        exit_code = EXIT_REFUSED
    if child:
        child.dismiss()
    if out_dir is None:
        with contextlib.suppress(OSError):  # Not empty: the meter had begun.
            folder.rmdir()
    return exit_code


def warn_unmeasurable(settings: Telemetry) -> None:
    """Warn at the start when nothing here can measure energy and no command is given."""
    zones, absent = rapl.find_zones(Path(expanded(settings.rapl_root)))
    if not zones and not nvml.list_gpus():
        _print(
            f"no energy can be measured here: this job has no GPU, {', '.join(absent.values())}; "
            "run it where there is one of them, or give a command and --cpu-estimate-tdp"
        )


def _measure(
    command: Sequence[str] | None,
    child: Supervisor | None,
    settings: Telemetry,
    folder: Path,
    attempt: int,
    listener: Listener | None,
    pids: Sequence[int],
) -> int:
    """As `measure`. Raises only what happened before the command or the measurement began."""
    _listen(_stop)
    exit_code: int | None = None
    began = False
    # Each process of a launch runs this command, and each meter gets its part of the node.
    meter = Meter(folder, settings, attempt=attempt, meter_of=place_on_node(), peers=pids)
    try:
        with meter:
            _set_aside_summary(folder)
            wait = _pass_signals_to(child) if child else _note_signals()
            began = True
            with _answering(listener, meter, [child.pid] if child else pids):
                exit_code = wait()
            if exit_code:
                raise _Failed
    except _Failed:
        pass
    except Exception:
        if not began:
            raise
        log.exception("the meter failed; the command went on, and the exit code is its own")
    if meter.row is not None:
        _report(meter, meter.row, command, exit_code if command else None, settings, folder)
    return exit_code or 0


@contextlib.contextmanager
def _answering(listener: Listener | None, meter: Meter, pids: Sequence[int]) -> Iterator[None]:
    if listener is None:
        yield
        return
    with listener.answering(meter, pids):
        who = "whoever has the token" if listener.wants_token else "everybody who gets there"
        _print(f"the meter answers {who} at {listener.url}")
        yield
    listener.close()


def _listen(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in SIGNALS:
        # nohup's choice is respected. SIGINT is not: shells ignore it for jobs in the background.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    if number in _ENDS:
        _listen(lambda *_: None)  # One is enough: the next would hit what tidies up.
        raise _Stopped(number)


def _write_signals_to(descriptor: int) -> None:
    def note(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(OSError):  # Nobody waits for signals any more.
            os.write(descriptor, bytes([number]))

    _listen(note)


def _pass_signals_to(child: Supervisor) -> Callable[[], int]:
    _write_signals_to(child.control)
    return child.run


def _note_signals() -> Callable[[], int]:
    read_end, write_end = os.pipe()
    _write_signals_to(write_end)

    def wait() -> int:
        while os.read(read_end, 1)[0] not in _ENDS:
            pass
        return 0

    return wait


def _not_startable(program: str) -> tuple[str, int]:
    """Why a program cannot be started, and the exit code that shells give then."""
    if not program:
        return "the command after -- has an empty name; give a program", EXIT_NOT_FOUND
    folders = [""] if os.sep in program else os.get_exec_path()
    found = [path for path in (Path(folder, program) for folder in folders) if path.exists()]
    if not found:
        return f"{program} is not found; give a program in PATH, or its path", EXIT_NOT_FOUND
    what = "is a folder" if found[0].is_dir() else "is not executable"
    return f"{found[0]} {what}; give a program that can be executed", EXIT_NOT_EXECUTABLE


def _open_folder(folder: Path) -> int:
    """The number of this attempt in a folder that exists then.

    Raises ValueError for records that cannot be read, OSError for a folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, "permission denied", str(folder))
    last = max(_last_attempt(folder / name) for name in ROWS_NAMES)
    summary_path = folder / SUMMARY_NAME
    if summary_path.is_file():
        summary = read_json(summary_path)
        if not isinstance(summary, dict) or not isinstance(summary.get("attempt"), int):
            raise ValueError(f"{summary_path} is not what kdwatts wrote; give another --out")
        last = max(last, summary["attempt"])
    return last + 1


def _set_aside_summary(folder: Path) -> None:
    """Rename an earlier summary after its attempt: summary.json is of an attempt that ended."""
    path = folder / SUMMARY_NAME
    if path.is_file():
        path.rename(path.with_stem(f"{path.stem}.{read_json(path)['attempt']}"))


def _last_attempt(path: Path) -> int:
    """The attempt of the last whole row; 0 without one. Attempts only grow in a file."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    if not lines:
        return 0
    try:
        row = json.loads(lines[-1])
        check_schema(row, str(path))
        return int(row["attempt"])
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ValueError(
            f"{path}: its last line is no row that kdwatts wrote; give another --out"
        ) from None


def _report(
    meter: Meter,
    row: StageRow,
    command: Sequence[str] | None,
    exit_code: int | None,
    settings: Telemetry,
    folder: Path,
) -> None:
    """Write summary.json and print the table; what fails here is said and changes nothing."""
    try:
        write_json(folder / SUMMARY_NAME, _summary(meter, row, command, exit_code, settings))
    except OSError as error:
        log.warning("cannot write %s (%s)", folder / SUMMARY_NAME, error.strerror)
    what = f"exit code {exit_code}: {shlex.join(command)}" if command else "no command"
    with contextlib.suppress(OSError):  # Nobody reads stderr any more.
        _print(f"{row.duration_s:,.2f} s, {what}")
        print(_table(row), file=sys.stderr, flush=True)


def _summary(
    meter: Meter,
    row: StageRow,
    command: Sequence[str] | None,
    exit_code: int | None,
    settings: Telemetry,
) -> dict[str, Any]:
    """What the root window drew, in the columns of its row in stages.jsonl."""
    estimate = {"cpu_tdp_w": settings.cpu_tdp_w, "cpu_tdp_threads": settings.cpu_tdp_threads}
    return {
        "schema": SCHEMA,
        "command": None if command is None else list(command),
        "exit_code": exit_code,
        "attempt": row.attempt,
        "start_utc": row.start_utc,
        "duration_s": row.duration_s,
        **{f"{kind}_energy_j": row.energy_j[kind] for kind in COMPONENTS},
        "method": row.method,
        "quality": row.quality,
        "uncertainty_j": row.uncertainty_j,
        "coverage": row.coverage,
        "net_energy_j": {kind: row.net_energy_j.get(kind) for kind in COMPONENTS},
        "node_energy_j": row.node_energy_j,
        "idle_power_w": row.idle_power_w,
        "reason": row.reason,
        "host": socket.gethostname(),
        "gpus": [asdict(gpu) for gpu in meter.gpus],
        "interval_s": settings.interval_s,
        "cpu_estimate": estimate if settings.cpu_estimate == "tdp" else None,
    }


def _table(row: StageRow) -> str:
    """One line a component: what it drew and how sure that is, or a dash and why it is missing."""
    lines = [("", "energy", "net of idle", "quality", "method", "coverage", "")]
    for kind in COMPONENTS:
        energy_j, net_j = row.energy_j[kind], row.net_energy_j.get(kind)
        coverage = row.coverage[kind]
        lines.append(
            (
                kind,
                "-" if energy_j is None else f"{energy_j:,.1f} J ± {_or_dash(row, kind)} J",
                "-" if net_j is None else f"{net_j:,.1f} J",
                row.quality[kind],
                row.method[kind] or "-",
                "-" if coverage is None else f"{100 * coverage:.1f} %",
                row.reason.get(kind, ""),
            )
        )
    return aligned(lines)


def _or_dash(row: StageRow, kind: str) -> str:
    sd_j = row.uncertainty_j[kind]
    return "-" if sd_j is None else f"{sd_j:,.1f}"


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {str(error.strerror).lower()}; give another --out"
    return " ".join(str(error).split())


def _print(sentence: str) -> None:
    print(f"kdwatts: {sentence}", file=sys.stderr, flush=True)
