"""`python -m kdwatts.telemetry` as a process of its own, on the replaying NVML library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.telemetry.__main__ import main
from kdwatts.telemetry.command import warn_unmeasurable
from kdwatts.telemetry.integration import integrate_power_j
from kdwatts.telemetry.recover import recover_components
from tests.telemetry.conftest import REPOSITORY
from tests.waits import PATIENCE_S, wait_until

POWER_W = 300.0

COUNT_SIGINTS = """
import signal, sys, time
count = []
signal.signal(signal.SIGINT, lambda *_: count.append(1))
print("ready", flush=True)
while not count:
    time.sleep(0.01)
time.sleep(0.4)
sys.exit(10 + len(count))
"""


@dataclass
class Metered:
    """A meter in its own session, as a job has one."""

    process: subprocess.Popen[str]
    out_dir: Path

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        printed, errors = self.process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        return self.process.returncode, printed, errors

    def wait_for_line(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n"

    def wait_for_row(self) -> None:
        path = self.out_dir / "telemetry.jsonl"

        def is_there() -> bool:
            assert self.process.poll() is None
            return path.is_file() and '"window":"run"' in path.read_text().replace(" ", "")

        wait_until(is_there)

    def summary(self) -> dict[str, Any]:
        return read_json(self.out_dir / "summary.json")

    def root_rows(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.out_dir / "stages.jsonl"))


@pytest.fixture
def start(nvml_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Metered]]:
    """Starts the meter with arguments; settings are NVML_REPLAY_ ones, in lower case."""
    begun: list[subprocess.Popen[str]] = []

    def run(*words: str, trace: str = f"0 {POWER_W}", **settings: object) -> Metered:
        (tmp_path / "trace.txt").write_text(f"{trace}\n")
        names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {"LD_LIBRARY_PATH": str(nvml_dir), "PYTHONPATH": str(REPOSITORY)}
        environment |= {"NVML_REPLAY_TRACE": str(tmp_path / "trace.txt")}
        environment |= {f"NVML_REPLAY_{k.upper()}": str(v) for k, v in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "kdwatts.telemetry", *words],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return Metered(process, tmp_path / "out")

    yield run
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_command_has_the_joules_of_the_trace_and_stdout_to_itself(start):
    start_s = time.monotonic()
    metered = start(
        "--out", "out", "--", "sh", "-c", "cat; sleep 2.5; echo hello; echo oops >&2",
        trace="0 100\n2 400", start_s=start_s,
    )  # fmt: skip
    metered.process.stdin.close()
    metered.process.stdin = None
    code, printed, errors = metered.end()
    assert (code, printed) == (0, "hello\n")
    summary = metered.summary()
    (row,) = metered.root_rows()
    begin_s = row["start_s"] - start_s
    end_s = begin_s + row["duration_s"]
    true_j = integrate_power_j([begin_s, 2], [100, 100]) + integrate_power_j([2, end_s], [400, 400])
    assert summary["gpu_energy_j"] == pytest.approx(true_j, rel=0.05)
    assert (summary["cpu_energy_j"], summary["dram_energy_j"]) == (None, None)
    assert summary["gpu_energy_j"] == row["energy_j"]["gpu"]
    for column in ("method", "quality", "uncertainty_j", "coverage", "reason", "duration_s"):
        assert summary[column] == row[column]
    assert summary["command"][:2] == ["sh", "-c"]
    assert (summary["schema"], summary["exit_code"], summary["attempt"]) == (1, 0, 1)
    (gpu,) = summary["gpus"]
    assert (gpu["name"], gpu["power_limit_w"]) == ("NVIDIA H100 80GB HBM3", 700)
    assert 2.5 < summary["duration_s"] < 2.5 + PATIENCE_S
    lines = errors.splitlines()
    assert "oops" in lines
    (gpu_line,) = [line for line in lines if line.startswith("gpu ")]
    assert (
        f"{summary['gpu_energy_j']:,.1f} J ± {summary['uncertainty_j']['gpu']:,.1f} J" in gpu_line
    )
    (dram_line,) = [line for line in lines if line.startswith("dram ")]
    assert dram_line.split()[:3] == ["dram", "-", "-"]
    assert dram_line.endswith(summary["reason"]["dram"])


@pytest.mark.parametrize(
    ("script", "expected", "outcome"),
    [
        ("exit 0", 0, "done"),
        ("exit 3", 3, "failed"),
        ("kill -TERM $$", 143, "failed"),
        ("kill -KILL $$", 137, "failed"),
    ],
)
def test_the_exit_code_is_the_commands(start, script, expected, outcome):
    metered = start("--out", "out", "--", "sh", "-c", script)
    code, _, _ = metered.end()
    assert code == metered.summary()["exit_code"] == expected
    assert [row["outcome"] for row in metered.root_rows()] == [outcome]


@pytest.mark.parametrize(
    ("command", "expected", "words"),
    [
        ("no-such-command", 127, "no-such-command is not found"),
        ("./no/such", 127, "./no/such is not found"),
        ("./trace.txt", 126, "trace.txt is not executable"),
        ("/", 126, "/ is a folder"),
        ("", 127, "the command after -- has an empty name"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_sentence_before_any_measurement(
    start, command, expected, words
):
    metered = start("--out", "out", "--", command)
    code, _, errors = metered.end()
    assert code == expected
    assert words in errors and errors.count("\n") == 1
    assert not metered.out_dir.exists()


@pytest.mark.parametrize(
    ("first_line", "expected"), [("", 7), ("#!/no/such/interpreter\n", 127)], ids=["none", "bad"]
)
def test_a_script_without_an_interpreter_is_the_shells_and_a_missing_one_is_not_found(
    start, tmp_path, first_line, expected
):
    script = tmp_path / "script"
    script.write_text(f"{first_line}exit 7\n")
    script.chmod(0o755)
    code, _, errors = start("--out", "out", "--", "./script").end()
    assert code == expected
    assert ("cannot start ./script: No such file" in errors) == (expected == 127)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--interval", "20"], "telemetry.interval_s=20.0 is out of range; give 0.01 to 10"),
        (["--idle", "-1"], "telemetry.idle_s=-1.0 is out of range; give at least 0"),
        (["sleep", "1"], "sleep is no option of the meter; write -- before the command"),
        (["--"], "no command follows --; give one, or leave -- out"),
        (["--cpu-estimate-tdp", "100"], "give a command"),
        (["--cpu-estimate-threads", "8", "--", "true"], "needs --cpu-estimate-tdp"),
        (["--cpu-estimate-tdp", "0", "--", "true"], "telemetry.cpu_tdp_w=0.0 is out of range"),
        (["--out", "trace.txt", "--", "true"], "trace.txt: file exists; give another --out"),
    ],
)
def test_a_bad_option_is_refused_with_2(tmp_path, monkeypatch, capfd, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.txt").touch()
    try:
        code = main(words)
    except SystemExit as stop:  # As argparse ends.
        code = stop.code
    printed, errors = capfd.readouterr()
    assert (code, printed) == (2, "")
    assert sentence in errors.splitlines()[-1]


def test_a_shared_gpu_is_refused_before_the_command_or_marked(start, tmp_path):
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        touch = ["--", "sh", "-c", "touch started; sleep 2.2"]
        refused = start("--out", "out", *touch, pids=stranger.pid)
        code, _, errors = refused.end()
        assert code == 2
        assert f"pid {stranger.pid} (sleep)" in errors
        assert errors.endswith("run alone, or give --allow-shared\n")
        assert not (tmp_path / "started").exists()
        assert not (tmp_path / "out" / "summary.json").exists()
        allowed = start("--out", "out", "--allow-shared", *touch, pids=stranger.pid)
        assert allowed.end()[0] == 0
        assert (tmp_path / "started").exists()
        summary = allowed.summary()
        assert "scope: whole_gpu" in summary["reason"]["gpu"]
        assert summary["gpu_energy_j"] == pytest.approx(POWER_W * summary["duration_s"], rel=0.05)
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("name", ["HUP", "QUIT", "TERM", "USR1"])
def test_a_signal_to_the_meter_reaches_the_command_which_decides(start, name):
    script = f"trap 'echo {name}; exit 5' {name}; echo ready; while :; do sleep 0.02; done"
    metered = start("--out", "out", "--", "sh", "-c", script)
    metered.wait_for_line("ready")
    metered.process.send_signal(signal.Signals[f"SIG{name}"])
    code, printed, _ = metered.end()
    assert (code, printed) == (5, f"{name}\n")
    assert metered.summary()["exit_code"] == 5


@pytest.mark.parametrize("to_group", [True, False], ids=["group", "meter"])
def test_a_ctrl_c_counts_once_whether_the_group_or_the_meter_gets_it(start, to_group):
    metered = start("--out", "out", "--", *python(COUNT_SIGINTS))
    metered.wait_for_line("ready")
    if to_group:
        os.killpg(metered.process.pid, signal.SIGINT)
    else:
        metered.process.send_signal(signal.SIGINT)
    assert metered.end()[0] == 11
    assert metered.summary()["exit_code"] == 11


def test_a_signal_while_idle_is_measured_ends_it_before_the_command(start, tmp_path):
    metered = start("--out", "out", "--idle", "60", "--", "touch", "started")
    path = tmp_path / "out" / "telemetry.jsonl"
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    metered.process.send_signal(signal.SIGTERM)
    code, _, errors = metered.end()
    assert code == 143
    assert "stopped by SIGTERM before anything was measured" in errors
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_without_a_command_it_measures_until_a_signal(start, name):
    metered = start("--out", "out", "--interval", "0.05")
    metered.wait_for_row()
    metered.process.send_signal(signal.SIGUSR1)
    time.sleep(2.4)
    metered.process.send_signal(signal.Signals[f"SIG{name}"])
    code, printed, _ = metered.end()
    assert (code, printed) == (0, "")
    summary = metered.summary()
    assert (summary["command"], summary["exit_code"]) == (None, None)
    assert summary["interval_s"] == 0.05
    assert summary["duration_s"] > 2, "SIGUSR1 asks a job for something, it does not end it"
    assert summary["gpu_energy_j"] == pytest.approx(POWER_W * summary["duration_s"], rel=0.05)
    assert [row["outcome"] for row in metered.root_rows()] == ["done"]


def test_idle_power_measured_before_gives_a_net_energy(start):
    # The command itself raises the power, however late it starts.
    rise = "import time; print(time.monotonic(), 400, file=open('trace.txt', 'a')); time.sleep(2.5)"
    words = ("--out", "out", "--idle", "2.2", "--", *python(rise))
    metered = start(*words, trace="0 100", live=1, start_s=0)
    assert metered.end()[0] == 0
    summary = metered.summary()
    assert summary["idle_power_w"]["gpu"] == pytest.approx(100, rel=0.03)
    net_j = summary["gpu_energy_j"] - summary["idle_power_w"]["gpu"] * summary["duration_s"]
    assert summary["net_energy_j"]["gpu"] == pytest.approx(net_j, rel=0.01)


def test_a_kill_9_leaves_rows_but_no_summary_and_no_process(start, tmp_path):
    # A child, a grandchild, and one that left the session and lost its parent.
    script = "(setsid sleep 1001 &); sh -c 'sleep 1002; :' & echo ready; sleep 1003; :"
    metered = start("--out", "out", "--", "sh", "-c", script)
    metered.wait_for_line("ready")
    time.sleep(3)
    tree = psutil.Process(metered.process.pid).children(recursive=True)
    assert {"1001", "1002", "1003"} <= {process.cmdline()[-1] for process in tree}
    metered.process.kill()
    metered.process.wait()
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    rows = list(read_jsonl(tmp_path / "out" / "telemetry.jsonl"))
    assert len([row for row in rows if row["device_kind"] == "gpu"]) > 20
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"telemetry.jsonl"}
    row = recover_components(tmp_path / "out" / "telemetry.jsonl", "run", 1)
    assert row is not None and row.duration_s > 2.2
    assert row.energy_j["gpu"] == pytest.approx(POWER_W * row.duration_s, rel=0.05)


@pytest.mark.slow
def test_what_ignores_sigterm_is_killed_after_the_grace(start):
    metered = start("--out", "out", "--", "sh", "-c", "trap '' TERM; echo ready; sleep 1000; :")
    metered.wait_for_line("ready")
    tree = psutil.Process(metered.process.pid).children(recursive=True)
    metered.process.kill()
    metered.process.wait()
    time.sleep(1)
    assert any(process.is_running() for process in tree), "it has time to save"
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_killed_guard_takes_the_command_along_and_the_meter_sums_up(start):
    metered = start("--out", "out", "--", "sh", "-c", "echo ready; exec sleep 1000")
    metered.wait_for_line("ready")
    (guard,) = psutil.Process(metered.process.pid).children()
    (command,) = guard.children()
    guard.kill()
    assert metered.end()[0] == 137
    assert metered.summary()["exit_code"] == 137
    psutil.wait_procs([command], timeout=PATIENCE_S)
    assert not command.is_running() or command.status() == psutil.STATUS_ZOMBIE


def test_a_second_run_in_a_folder_is_its_next_attempt_and_loses_nothing(start, tmp_path):
    assert start("--out", "out", "--", "true").end()[0] == 0
    names = ("telemetry.jsonl", "stages.jsonl")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    first = (tmp_path / "out" / "summary.json").read_bytes()
    with (tmp_path / "out" / "telemetry.jsonl").open("ab") as file:
        file.write(b'{"schema": 1, "torn')
    metered = start("--out", "out", "--", "true")
    code, _, errors = metered.end()
    assert code == 0
    assert "records go to out, as attempt 2 after the earlier rows" in errors
    for name in names:
        assert (tmp_path / "out" / name).read_bytes().startswith(before[name])
        rows = list(read_jsonl(tmp_path / "out" / name))
        attempts = [row["attempt"] for row in rows]
        assert set(attempts) == {1, 2} and attempts == sorted(attempts)
    assert metered.summary()["attempt"] == 2
    assert (tmp_path / "out" / "summary.1.json").read_bytes() == first


def test_an_attempt_that_was_killed_counts(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "telemetry.jsonl").write_text('{"schema": 1, "attempt": 4}\n{"schema')
    metered = start("--out", "out", "--", "true")
    assert metered.end()[0] == 0
    assert metered.summary()["attempt"] == 5


@pytest.mark.parametrize("text", ["time,power\n", '{"schema": 99, "attempt": 1}\n', "[1]\n"])
def test_a_folder_with_records_of_somebody_else_is_refused(start, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "telemetry.jsonl").write_text(text)
    code, _, errors = start("--out", "out", "--", "touch", "started").end()
    assert code == 2
    assert "no row that kdwatts wrote; give another --out" in errors
    assert not (tmp_path / "started").exists()
    assert (tmp_path / "out" / "telemetry.jsonl").read_text() == text


def test_a_disk_that_takes_no_records_changes_no_exit_code(start, tmp_path):
    (tmp_path / "out" / "summary.json").mkdir(parents=True)
    for name in ("telemetry.jsonl", "stages.jsonl"):
        (tmp_path / "out" / name).symlink_to("/dev/full")
    code, _, errors = start("--out", "out", "--", "sh", "-c", "exit 3").end()
    assert code == 3
    assert "cannot write out/summary.json" in errors


def test_the_processor_time_of_the_whole_tree_is_estimated_when_asked(start):
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    both = f"{sys.executable} -S -c '{burn}'"
    words = ("--cpu-estimate-tdp", "100", "--cpu-estimate-threads", "2", "--rapl-root", "/nowhere")
    metered = start("--out", "out", *words, "--", "sh", "-c", f"({both}) & ({both}); wait")
    assert metered.end()[0] == 0
    summary = metered.summary()
    # Twice 0.5 s of a thread of 50 W; the meter and two interpreters that start add a little.
    assert 49 < summary["cpu_energy_j"] < 95
    assert (summary["quality"]["cpu"], summary["method"]["cpu"]) == ("estimated", "tdp_model")
    assert summary["cpu_estimate"] == {"cpu_tdp_w": 100, "cpu_tdp_threads": 2}


def test_without_out_two_at_once_get_a_folder_each(start, tmp_path):
    both = [start("--", "true") for _ in range(2)]
    said = [metered.end() for metered in both]
    assert [code for code, _, _ in said] == [0, 0]
    folders = {errors.splitlines()[0].partition("records go to ")[2] for _, _, errors in said}
    assert len(folders) == 2
    for folder in folders:
        assert folder.startswith("runs/telemetry/")
        assert (tmp_path / folder / "summary.json").is_file()


def test_live_figures_are_there_while_it_runs_and_gone_at_the_end_but_for_a_kill(start, tmp_path):
    folder = tmp_path / "textfile"
    folder.mkdir()

    def figures() -> dict[str, float]:
        text = ""

        def has_energy() -> bool:
            nonlocal text
            # Beside a file lies for a moment the one that takes its place, which has another name.
            text = "".join(path.read_text() for path in folder.glob("*.prom"))
            return "kdwatts_energy_joules_total{" in text

        wait_until(has_energy)
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("kind", "gpu") == "gpu"
        }

    metered = start("--out", "out", "--openmetrics", "textfile")
    first = figures()
    assert first["kdwatts_power_watts"] == pytest.approx(POWER_W)
    time.sleep(2)
    later = figures()
    joules = later["kdwatts_energy_joules_total"] - first["kdwatts_energy_joules_total"]
    stamp = "kdwatts_last_sample_timestamp_seconds"
    # A file is stamped a little after its energy was read.
    assert joules == pytest.approx(POWER_W * (later[stamp] - first[stamp]), rel=0.25)
    metered.process.send_signal(signal.SIGTERM)
    assert metered.end()[0] == 0
    assert list(folder.iterdir()) == []
    killed = start("--out", "out", "--openmetrics", "textfile")
    figures()
    killed.process.kill()
    killed.process.wait()
    (left,) = folder.glob("*.prom")
    start("--out", "out", "--openmetrics", "textfile", "--", "true").end()
    assert not left.exists()


def test_it_imports_no_torch_and_its_help_is_quick():
    code = (
        "import sys, kdwatts.telemetry.__main__ as m; from kdwatts.telemetry import command\n"
        "print('torch' in sys.modules, 'prometheus_client' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "False False"
    code = "import sys, kdwatts.telemetry.__main__; print('omegaconf' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "False"


def test_descriptors_of_the_caller_are_the_commands_too(start, tmp_path):
    words = [sys.executable, "-m", "kdwatts.telemetry", "--out", "out", "--", "cat"]
    shell = f"exec 7< given; {' '.join(words)} /dev/fd/7"
    (tmp_path / "given").write_text("through\n")
    done = subprocess.run(
        ["sh", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "through\n")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["exit_code"] == 0


def test_where_no_energy_is_measured_that_is_said_before_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    warn_unmeasurable(Telemetry(rapl_root=str(tmp_path)))
    assert capsys.readouterr().err == (
        "kdwatts: no energy can be measured here: this job has no GPU, no RAPL package zone under "
        f"{tmp_path}, no RAPL dram zone under {tmp_path}; run it where there is one of them, or "
        "give a command and --cpu-estimate-tdp\n"
    )


@pytest.mark.parametrize("words", [["--out", ""], ["--out", "$KDWATTS_NONE/a"], ["--rapl-root="]])
def test_a_folder_that_names_nothing_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    try:
        assert main(words) == 2
    except SystemExit as stop:  # argparse's own.
        assert stop.code == 2
    assert list(tmp_path.iterdir()) == []
