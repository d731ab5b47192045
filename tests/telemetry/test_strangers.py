import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdwatts.telemetry import nvml, strangers
from kdwatts.telemetry.strangers import Watch


@pytest.fixture
def on_gpu(monkeypatch) -> set[int]:
    """The processes that NVML names as users of every GPU; tests change it."""
    pids: set[int] = set()
    monkeypatch.setattr(nvml, "compute_pids", lambda gpu: set(pids))
    return pids


@pytest.fixture
def other() -> Any:
    """A living process that is no relative of this one: its parent has ended."""
    # It must not hold the pipes that are read here, or this would wait for its end.
    code = (
        "import subprocess as s\n"
        "print(s.Popen(['sleep', '60'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(printed.stdout)
    yield pid
    os.kill(pid, 9)


@pytest.fixture
def cuda_device(monkeypatch, tmp_path) -> Any:
    """A container whose processes use CUDA while they hold this file open."""
    device = tmp_path / "nvidia-uvm"
    device.touch()
    monkeypatch.setattr(strangers, "_namespace", lambda: "pid:[4026533000]")
    monkeypatch.setattr(strangers, "_CUDA_DEVICE", str(device))
    monkeypatch.setattr(strangers, "_here_before", set())
    monkeypatch.setattr(strangers, "_has_looked", False)
    monkeypatch.setattr(strangers, "_taken_for_own", set())
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    return device


def gpu(uuid: str = "GPU-a", *, is_sliced: bool = False) -> Any:
    return SimpleNamespace(device=SimpleNamespace(uuid=uuid, is_sliced=is_sliced))


def test_a_gpu_that_only_this_job_uses_leaves_no_remark(on_gpu):
    child = subprocess.Popen(["sleep", "60"])
    on_gpu |= {os.getpid(), os.getppid(), child.pid}
    watch = Watch([gpu()], allowed=False)
    watch.look()
    child.kill()
    child.wait()
    assert watch.remark(since_s=0.0) is None


def test_a_gpu_in_use_is_refused_with_the_process_named(on_gpu, other):
    on_gpu.add(other)
    with pytest.raises(RuntimeError) as refusal:
        Watch([gpu()], allowed=False)
    assert str(refusal.value) == (
        f"telemetry: GPU-a is also used by pid {other} (sleep), so its energy would not be "
        "this run's alone; run alone, or set telemetry.allow_shared=true"
    )


def test_a_slice_is_refused_or_reported_as_the_whole_gpu(on_gpu):
    with pytest.raises(
        RuntimeError, match="GPU-a is sliced by MIG, but its meter measures all slices"
    ):
        Watch([gpu(is_sliced=True)], allowed=False)
    watch = Watch([gpu(is_sliced=True)], allowed=True)
    assert watch.remark(since_s=0.0) == "scope: whole_gpu, GPU-a is sliced by MIG"


def test_one_that_comes_later_marks_the_windows_it_was_in_and_stops_nothing(
    on_gpu, other, monkeypatch, caplog
):
    monkeypatch.setattr(strangers, "_namespace", lambda: strangers._FIRST_NAMESPACE)
    watch = Watch([gpu("GPU-a"), gpu("GPU-b")], allowed=False)
    before_s = time.monotonic()
    on_gpu.add(other)
    watch.look()
    on_gpu.clear()
    watch.look()
    after_s = time.monotonic()
    assert watch.remark(before_s) == (
        f"scope: whole_gpu, GPU-a is also used by pid {other} (sleep); "
        f"GPU-b is also used by pid {other} (sleep)"
    )
    assert watch.remark(after_s) is None
    assert [f"now also used by pid {other}" in message for message in caplog.messages] == [True] * 2


def test_in_a_container_our_own_process_does_not_look_like_a_stranger_later(on_gpu, cuda_device):
    watch = Watch([gpu()], allowed=False)
    on_gpu.add(4_000_000)  # This process as the host counts it.
    watch.look()
    assert watch.remark(since_s=0.0) is None


def test_in_a_container_those_of_the_start_mark_every_window(on_gpu, cuda_device):
    on_gpu.add(4_000_000)
    watch = Watch([gpu()], allowed=True)
    on_gpu.clear()
    assert watch.remark(time.monotonic() + 1e6) == (
        "scope: whole_gpu, GPU-a is also used by pid 4000000 (not visible from here)"
    )


def test_in_a_container_a_second_run_of_one_process_is_not_refused_for_what_the_first_left(
    on_gpu, cuda_device
):
    Watch([gpu()], allowed=False)
    with cuda_device.open():
        on_gpu.add(4_000_000)  # This process as the host counts it.
        second = Watch([gpu()], allowed=False)
        assert second.remark(since_s=0.0) is None
    with pytest.raises(RuntimeError, match="also used by pid 4000000"):
        Watch([gpu()], allowed=False)  # This process uses no CUDA any more: it is another's.


def test_in_a_container_a_child_s_use_of_the_gpu_is_this_job_s_own(on_gpu, cuda_device):
    Watch([gpu()], allowed=False)
    with cuda_device.open() as file:
        child = subprocess.Popen(["sleep", "60"], stdin=file)
    on_gpu.add(4_000_000)
    try:
        assert Watch([gpu()], allowed=False).remark(since_s=0.0) is None
    finally:
        child.kill()
        child.wait()


def test_in_a_container_more_newcomers_than_own_users_of_cuda_are_refused_by_name(
    on_gpu, cuda_device
):
    Watch([gpu()], allowed=False)
    on_gpu |= {4_000_000, 4_000_001}
    with cuda_device.open(), pytest.raises(RuntimeError) as refusal:
        Watch([gpu()], allowed=False)
    assert "pid 4000000 (not visible from here)" in str(refusal.value)
    assert "pid 4000001 (not visible from here)" in str(refusal.value)


def test_in_a_container_one_that_was_there_before_us_stays_a_stranger_in_later_runs(
    on_gpu, cuda_device
):
    on_gpu.add(4_000_000)
    Watch([gpu()], allowed=True)
    with cuda_device.open():
        on_gpu.add(4_000_001)
        second = Watch([gpu()], allowed=True)
    assert second.remark(since_s=0.0) == (
        "scope: whole_gpu, GPU-a is also used by pid 4000000 (not visible from here)"
    )


def test_in_a_container_a_newcomer_is_named_alone_where_our_own_were_there_alone_before(
    on_gpu, cuda_device
):
    first = Watch([gpu()], allowed=False)
    with cuda_device.open():
        on_gpu.add(4_000_000)  # This process as the host counts it.
        first.look()
        assert first.remark(since_s=0.0) is None
        on_gpu.add(4_000_001)
        with pytest.raises(RuntimeError) as refusal:
            Watch([gpu()], allowed=False)
        assert "is also used by pid 4000001 (not visible from here), so" in str(refusal.value)
        assert "4000000" not in str(refusal.value)
        on_gpu.remove(4_000_001)
        assert Watch([gpu()], allowed=False).remark(since_s=0.0) is None


def test_in_a_container_an_engine_of_the_first_run_that_has_ended_changes_nothing_in_the_second(
    on_gpu, cuda_device
):
    first = Watch([gpu()], allowed=False)
    with cuda_device.open() as file:
        with subprocess.Popen(["sleep", "60"], stdin=file) as engine:
            on_gpu |= {4_000_000, 4_000_001}
            first.look()
            engine.kill()
        on_gpu.remove(4_000_001)
        assert Watch([gpu()], allowed=False).remark(since_s=0.0) is None
        on_gpu.add(4_000_002)
        with pytest.raises(
            RuntimeError, match=r"used by pid 4000002 \(not visible from here\), so"
        ):
            Watch([gpu()], allowed=False)


def test_in_a_container_a_newcomer_is_not_taken_for_a_process_that_only_asked_for_a_gpu(
    on_gpu, cuda_device, monkeypatch
):
    Watch([gpu()], allowed=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    on_gpu.add(4_000_001)
    with cuda_device.open(), pytest.raises(RuntimeError, match="also used by pid 4000001"):
        Watch([gpu()], allowed=False)


SWEEP = """
import subprocess
from kdwatts.telemetry import strangers
strangers._namespace = lambda: "pid:[4026533000]"
strangers._CUDA_DEVICE = str(out_dir / "nvidia-uvm")
device = open(strangers._CUDA_DEVICE, "w")
US, ENGINE, BEFORE, BETWEEN = 4000000, 4000001, 4000002, 4000003
device.close()

def use(*pids):
    os.environ["NVML_REPLAY_PIDS"] = ",".join(map(str, pids))

def run(number, body=lambda look: None, allowed=False):
    settings = Telemetry(rapl_root="/nowhere", allow_shared=allowed, idle_s=0)
    try:
        with Meter(out_dir / str(number), settings) as meter:
            body(meter.node.watch.look)
        return meter.node.watch.remark(since_s=0.0)
    except RuntimeError as error:
        return str(error)

def train_and_serve(look):
    global device
    device = open(strangers._CUDA_DEVICE)
    with subprocess.Popen(["sleep", "60"], stdin=device) as engine:
        use(*others, US, ENGINE)
        look()
        engine.kill()
    use(*others, US)

others = [BEFORE] if BEFORE_FIRST else []
use(*others)
said = [run(0, train_and_serve, allowed=BEFORE_FIRST), run(1, allowed=BEFORE_FIRST)]
others.append(BETWEEN)
use(*others, US)
print_json([*said, run(2), run(3, allowed=True)])
"""


def test_runs_of_one_process_in_a_container_are_refused_for_others_and_never_for_themselves(
    start_script,
):
    alone = start_script("BEFORE_FIRST = False\n" + SWEEP, [(0, 100, 100)])
    beside = start_script("BEFORE_FIRST = True\n" + SWEEP, [(0, 100, 100)])
    found, spoilt = alone.finish(), beside.finish()
    between, before = (f"pid {number} (not visible from here)" for number in (4000003, 4000002))
    assert found[:2] == [None, None]
    assert f"is also used by {between}, so its energy would not be this run's alone" in found[2]
    assert found[3].endswith(f"is also used by {between}")
    assert all(said.endswith(f"is also used by {before}") for said in spoilt[:2])
    assert f"is also used by {before}, {between}, so its energy would not" in spoilt[2]
    assert spoilt[3].endswith(f"is also used by {before}, {between}")
