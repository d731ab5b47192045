"""`python -m kdwatts.doctor` as a process: exit codes, what it leaves, and what it prints where."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records.doctor_record import DoctorRecord, last_of, read_record, record_path
from kdwatts.records.files import read_json
from tests import whole_runs

REPOSITORY = Path(__file__).parents[2]

# The genuine command with checks of a known outcome: the real ones take minutes.
DOCTOR = """
import json, os, sys, time, warnings
from kdwatts.doctor import doctor_command
from kdwatts.doctor.__main__ import main
from kdwatts.doctor.patient import Check
from kdwatts.records.doctor_record import Verdict
from kdwatts.runtime.interrupt import ended_in_a_sentence
from kdwatts.runtime.streams import until_unread

def gives(word):
    def look(patient, seconds):
        (patient.work_dir / "scratch").write_text("x")
        warnings.warn("a library warns")
        yield Verdict(f"it_is_{word}", word, f"42 of {seconds > 0} at pair "
                      f"{patient.config.model.name}", remedy="mend it")
    return look

def waits(patient, seconds):
    print(patient.work_dir, file=sys.stderr, flush=True)
    time.sleep(60)
    yield Verdict("waited", "right", "60 s")

def spoils(patient, seconds):
    os.rmdir("here")
    open("here", "w").close()
    yield Verdict("spoilt", "right", "a file is where a folder was")

def raises(patient, seconds):
    raise OSError(5, "Input/output error")
    yield

LOOKS = {word: gives(word) for word in ("right", "attention", "wrong")}
LOOKS |= {"waits": waits, "raises": raises, "spoils": spoils}
names = json.loads(os.environ["LOOKS"])
doctor_command.all_chapters = lambda: {
    "instruments": [Check(name, 1, 0.001, LOOKS[name]) for name in names]
}
with until_unread(), ended_in_a_sentence("python -m kdwatts.doctor"):
    sys.exit(main(sys.argv[1:]))
"""


def environment(looks: Sequence[str], more: dict[str, str] | None = None) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "KDWATTS_STORE"},
        "PYTHONPATH": str(REPOSITORY),
        "LOOKS": json.dumps(list(looks)),
        **(more or {}),
    }


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", DOCTOR, *words]


def examine(
    folder: Path, *words: str, looks: Sequence[str] = ("right",), **more: str
) -> subprocess.CompletedProcess[str]:
    """A doctor that was started in a folder, whose store is below it."""
    return subprocess.run(
        command(*words), cwd=folder, env=environment(looks, more), text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip


def record_of(folder: Path) -> DoctorRecord:
    (path,) = folder.rglob("doctor.json")
    return read_record(path)


def store_of(folder: Path) -> Path:
    return record_path(folder / "runs" / "store", socket.gethostname(), None)


def test_a_machine_without_a_wrong_verdict_is_0_and_its_record_is_kept_twice(tmp_path: Path):
    ended = examine(tmp_path, looks=["right", "attention"])
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.split("\n")
    assert lines[0].startswith("kdwatts 0.1.0 examines ") and "pair tiny" in ended.stdout
    assert "  right      it is right: 42 of True at pair tiny" in lines
    assert "1 right, 1 attention, 0 wrong; 0 without a verdict." in lines
    record = record_of(tmp_path / "runs" / "doctor")
    assert [one.verdict for one in record.verdicts] == ["right", "attention"]
    assert (record.pair, record.minutes, record.gpu_uuid) == ("tiny", 5.0, None)
    assert read_record(store_of(tmp_path)) == record
    (last,) = last_of(tmp_path / "runs" / "store", record.host, [None])
    assert last["time_utc"] == record.time_utc


def test_a_wrong_verdict_is_1_and_is_kept_all_the_same(tmp_path: Path):
    ended = examine(tmp_path, "--out", "here", looks=["right", "wrong"])
    assert ended.returncode == 1
    assert "Wrong: it is wrong." in ended.stdout
    assert read_record(store_of(tmp_path)) == read_record(tmp_path / "here" / "doctor.json")


def test_a_check_that_raises_is_a_wrong_verdict_and_no_traceback(tmp_path: Path):
    ended = examine(tmp_path, looks=["raises", "right"])
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "the check failed: OSError: [Errno 5] Input/output error" in ended.stdout
    assert [one.verdict for one in record_of(tmp_path / "runs/doctor").verdicts] == [
        "wrong",
        "right",
    ]


def test_a_run_names_the_record_that_a_doctor_left_in_its_store_and_else_says_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    asked = ["until=shards", "gpu=cpu", "eval=none", "training=smoke", "paradigm=sft"]

    def doctor_of(name: str) -> dict[str, Any]:
        run_dir = whole_runs.run(tmp_path / name, *asked)
        (found,) = read_json(run_dir / "manifest.json")["doctor"]
        return found

    host = socket.gethostname()
    never = f"python -m kdwatts.doctor was never run on {host} with this store"
    assert (doctor_of("before")["reason"], doctor_of("before")["path"]) == (never, None)
    assert examine(tmp_path, looks=["right", "attention"]).returncode == 0
    found = doctor_of("after")
    assert (found["reason"], found["path"]) == (None, str(store_of(tmp_path)))
    assert (found["num_right"], [one["name"] for one in found["not_right"]]) == (
        1,
        ["it_is_attention"],
    )


def test_a_pair_of_one_s_own_is_examined_from_the_folder_of_its_options(tmp_path: Path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    pair = (REPOSITORY / "conf/model/tiny.yaml").read_text("utf-8")
    (tmp_path / "conf/model/mine.yaml").write_text(pair.replace("name: tiny", "name: mine"))
    ended = examine(tmp_path, "--config-dir", "conf", "--model", "mine")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "at pair mine" in ended.stdout


REFUSED = [
    (["--config-dir", "nowhere"], "--config-dir=nowhere names no folder"),
    (["--minutes", "0"], "'0' is no time in minutes; give a number above 0, at most 120"),
    (["--minutes", "nan"], "'nan' is no time in minutes"),
    (["--minutes", "121"], "'121' is no time in minutes"),
    (["--pair", "tiny"], "unrecognized arguments: --pair"),
    (["tiny"], "'tiny' is no setting; write group.key=value"),
    (["--model", "tony"], "model=tony is unknown; choose one of"),
    (["--gpu", "h1000"], "gpu=h1000 is unknown; choose one of"),
    (["modle=tiny"], "modle"),
    (["training.seed=0,1"], "has several values"),
    (["hydra.run.dir=x"], "hydra.run.dir=x is a setting of Hydra"),
    (["--out", "file/below"], "not a directory: 'file"),
    (["--out", "file"], "file exists: 'file'"),
    (["--out", "/proc/kdwatts"], "/proc/kdwatts"),
    (["--out", "/sys/kernel"], "/sys/kernel"),
    (["--out", "$KDWATTS_UNSET/x"], "KDWATTS_UNSET, which is not set"),
    (["store_dir=''"], "store_dir"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_cannot_be_examined_is_refused_with_2_before_anything_is_written(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    from kdwatts.doctor import doctor_command
    from kdwatts.doctor.__main__ import main

    def examined(*_: Any) -> Any:
        raise AssertionError("it was examined")

    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor_command, "_shown", examined)
    try:
        code: Any = main(words)
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    assert code == 2
    assert said in printed.err and "Traceback" not in printed.err, printed.err
    assert printed.err.count("kdwatts: ") <= 1 and printed.out == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def started(folder: Path, *words: str, looks: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), cwd=folder, env=environment(looks), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")],
)
def test_a_stopped_examination_keeps_what_was_found_and_leaves_the_store_s_record(
    number: signal.Signals, code: int, reason: str, tmp_path: Path
):
    assert examine(tmp_path, looks=["right", "right"]).returncode == 0
    before = store_of(tmp_path).read_text()
    process = started(tmp_path, "--out", "stopped", looks=["wrong", "waits"])
    assert process.stderr
    work_dir = Path(process.stderr.readline().strip())
    assert (work_dir / "scratch").exists()
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "it is wrong: 42" in printed and "1 wrong" in printed
    assert f"stopped by {reason}; what was found is in stopped/doctor.json" in errors
    assert "Traceback" not in errors
    kept = read_record(tmp_path / "stopped" / "doctor.json")
    assert [one.name for one in kept.verdicts] == ["it_is_wrong"]
    assert store_of(tmp_path).read_text() == before
    assert not work_dir.exists()


def test_a_reader_that_left_ends_it_quietly_and_what_was_found_is_kept(tmp_path: Path):
    process = started(tmp_path, "--out", "here", looks=["wrong", "right", "waits"])
    with process:
        assert process.stdout and process.stderr
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGPIPE
    assert errors == ""
    assert (tmp_path / "here" / "doctor.json").exists()
    assert not store_of(tmp_path).exists()


def test_a_full_disk_behind_stdout_is_a_sentence(tmp_path: Path):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command("--out", "here"), cwd=tmp_path, env=environment(["right"]), text=True,
            stdout=full, stderr=subprocess.PIPE, timeout=120,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == (
        "kdwatts: stdout takes no more (No space left on device); what was found is in "
        "here/doctor.json\n"
    )
    assert (tmp_path / "here" / "doctor.json").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_the_shell_closed_takes_nothing_and_ends_nothing(closed: str, tmp_path: Path):
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command("--out", "here")], cwd=tmp_path,
        env=environment(["right", "attention"]), text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("1 right, 1 attention" in ended.stdout) == (closed == "2>&-")
    assert read_record(store_of(tmp_path)).count("right") == 1


def test_a_folder_that_was_removed_is_named_as_what_is_missing(tmp_path: Path):
    (tmp_path / "gone").mkdir()
    ended = subprocess.run(
        ["sh", "-c", 'cd gone && rmdir ../gone && exec "$@"', "sh", *command()], cwd=tmp_path,
        env=environment(["right"]), text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr == (
        "kdwatts: the folder in which the command is started was removed; go to one that exists\n"
    )


def test_a_store_that_cannot_be_written_is_told_and_the_record_is_where_out_says(tmp_path: Path):
    (tmp_path / "store").write_text("a file")
    ended = examine(tmp_path, "store_dir=store", "--out", "here")
    assert ended.returncode == 0
    assert "The record is here/doctor.json; the store has none, as " in ended.stdout
    assert "cannot be written (" in ended.stdout
    assert read_record(tmp_path / "here" / "doctor.json").count("right") == 1


def test_an_out_that_is_gone_at_the_end_is_1_and_the_store_has_the_record(tmp_path: Path):
    ended = examine(tmp_path, "--out", "here", looks=["right", "spoils"])
    assert ended.returncode == 1
    assert ended.stderr == "kdwatts: here/doctor.json cannot be written (File exists)\n"
    assert "There is no record in --out, and the store's is " in ended.stdout
    assert read_record(store_of(tmp_path)).count("right") == 2


def test_a_bar_moves_on_a_terminal_while_a_long_check_runs_and_stdout_has_none_of_it(
    tmp_path: Path,
):
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with (tmp_path / "page").open("w") as page:
        process = subprocess.Popen(
            command("--minutes", "10"), cwd=tmp_path, env=environment(["right", "waits"]),
            stdout=page, stderr=terminal,
        )  # fmt: skip
    os.close(terminal)
    seen, until_s = "", time.monotonic() + 60
    try:
        # The check sleeps and says nothing: only the bar itself can move.
        while len(set(re.findall(r"waits +\|.*?\| (\d+) of 600 s", seen))) < 3:
            assert time.monotonic() < until_s, seen
            if select.select([controller], [], [], 1)[0]:
                seen += os.read(controller, 4096).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    text = (tmp_path / "page").read_text()
    assert "it is right" in text
    assert "|" not in text and "\r" not in text and "\x1b" not in text


@pytest.mark.parametrize(
    "launcher",
    [
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        {
            "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0",
            "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1,3",
        },
    ],
)  # fmt: skip
def test_several_processes_on_a_machine_are_refused_in_one_sentence(
    launcher: dict[str, str], tmp_path: Path
):
    ended = examine(tmp_path, **launcher)
    assert ended.returncode == 2
    assert re.fullmatch(
        r"kdwatts: [23] processes were started on this machine, .*--ntasks-per-node=1\n",
        ended.stderr,
    )
    assert list(tmp_path.iterdir()) == []


def test_one_process_on_each_of_several_machines_examines_its_own(tmp_path: Path):
    launcher = {
        "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0",
        "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    }  # fmt: skip
    ended = examine(tmp_path, "--out", "all", **launcher)
    assert ended.returncode == 0, ended.stderr
    host = socket.gethostname()
    assert read_record(tmp_path / "all" / host / "doctor.json").host == host


def test_a_host_s_folder_lies_below_out_whatever_the_host_is_called(tmp_path: Path):
    from kdwatts.doctor.doctor_command import _folder

    assert _folder(tmp_path, "../a b/c") == tmp_path / ".._a_b_c"


def test_a_rank_that_is_no_number_is_refused_in_a_sentence(tmp_path: Path):
    ended = examine(tmp_path, RANK="x", WORLD_SIZE="2", LOCAL_RANK="0")
    assert ended.returncode == 2
    assert ended.stderr.startswith("kdwatts: ") and ended.stderr.count("\n") == 1


def test_help_says_what_it_does_without_loading_torch():
    code = (
        "import sys\n"
        "from kdwatts.doctor.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, text=True, capture_output=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    for word in ("--gpu", "--model", "--minutes", "--out", "srun", "130"):
        assert word in ended.stdout
