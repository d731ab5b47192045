"""The store under many processes, kills and stalls, with real processes and real folders."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdwatts.artifacts import store
from kdwatts.artifacts.store import Store
from kdwatts.runtime import interrupt
from tests.waits import wait_until

REPOSITORY = Path(__file__).parents[2]

BUILD_ONCE = """
import os, sys, time
from pathlib import Path
from kdwatts.artifacts.store import Store
root = Path(sys.argv[1])
with Store(root).claim("shards", "k1") as claim:
    if not claim.exists:
        with open(root / "built.log", "a") as log:
            log.write(f"{os.getpid()}\\n")
        for part in range(10):
            time.sleep(0.03)
            (claim.work_dir / f"{part}.txt").write_text(str(os.getpid()))
        claim.commit()
print(sorted({path.read_text() for path in claim.artifact_dir.iterdir()}), flush=True)
"""

BUILD_HALF = """
import socket, sys, time
from pathlib import Path
from kdwatts.artifacts import store
root, host, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if host:
    socket.gethostname = lambda: host
store.RENEW_EVERY_S = 0.05
with store.Store(root).claim("distill", "k1") as claim:
    (claim.work_dir / "half.txt").write_text("half")
    claim.scratch_dir.mkdir(exist_ok=True)
    (claim.scratch_dir / "checkpoint").write_text("step 7")
    print("building", flush=True)
    time.sleep(seconds)
    (claim.work_dir / "half.txt").write_text("whole")
    claim.commit()
"""


def _start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def _start_building(root: Path, *, host: str, seconds: float) -> subprocess.Popen[str]:
    builder = _start(BUILD_HALF, root, host, seconds)
    assert builder.stdout and builder.stdout.readline() == "building\n"
    return builder


def _end(builder: subprocess.Popen[str]) -> None:
    builder.kill()
    builder.communicate()


def _names(root: Path, stage: str = "distill") -> list[str]:
    return sorted(path.name for path in (root / stage).iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are never renewed and count as dead after 0.2 s."""
    monkeypatch.setattr(store, "LEASE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(store, "RENEW_EVERY_S", 1000.0)
    monkeypatch.setattr(store, "POLL_EVERY_S", 0.02)


def test_six_processes_that_want_one_artifact_build_it_once(root: Path):
    builders = [_start(BUILD_ONCE, root) for _ in range(6)]
    printed = [builder.communicate(timeout=60)[0] for builder in builders]
    (pid,) = (root / "built.log").read_text().split()
    assert printed == [f"['{pid}']\n"] * 6
    assert _names(root, "shards") == ["k1"]


BUILD_OR_DIE = """
import os, sys, time
from pathlib import Path
from kdwatts.artifacts import store
root, host = Path(sys.argv[1]), sys.argv[2]
# Nobody shares a host with anybody: a lease that stands still is all that tells the dead.
store.host_and_space = lambda: f"{host} {os.getpid()}"
# A busy machine may keep a living one from renewing its lease for a while.
store.LEASE_TIMEOUT_S, store.RENEW_EVERY_S, store.POLL_EVERY_S = 4.0, 0.1, 0.02
with store.Store(root).claim("teacher", "k1") as claim:
    if not claim.exists:
        claim.scratch_dir.mkdir(exist_ok=True)
        with open(root / "built.log", "a") as log:
            log.write(f"{os.getpid()}\\n")
        parts = claim.scratch_dir / "parts"
        for part in range(len(parts.read_text()) if parts.exists() else 0, 60):
            with parts.open("a") as file:
                file.write("x")
            time.sleep(0.05)
        (claim.work_dir / "a.txt").write_text(f"{os.getpid()} {parts.read_text()}")
        claim.commit()
print((claim.artifact_dir / "a.txt").read_text(), flush=True)
"""


@pytest.mark.parametrize("hosts", ["one", "many"])
def test_of_five_that_want_an_artifact_one_goes_on_where_two_killed_builders_stopped(
    hosts: str, root: Path
):
    """The wait of a sweep for its teacher: no two build at once, and nothing is built twice."""
    names = ["" if hosts == "one" else f"gpu{number}" for number in range(5)]
    script = BUILD_OR_DIE
    if hosts == "one":
        script = "\n".join(
            line for line in script.splitlines() if "store.host_and_space =" not in line
        )
    waiting = {(p := _start(script, root, name)).pid: p for name in names}
    log = root / "built.log"
    for killed in (1, 2):
        wait_until(lambda killed=killed: log.exists() and log.read_text().count("\n") == killed)
        parts = root / "teacher" / "k1.scratch" / "parts"
        size = len(parts.read_text()) if parts.exists() else 0
        wait_until(
            lambda size=size, parts=parts: parts.exists() and parts.stat().st_size > size + 5
        )
        _end(waiting.pop(int(log.read_text().split()[-1])))
    printed = {process.communicate(timeout=60)[0] for process in waiting.values()}
    assert {process.returncode for process in waiting.values()} == {0}
    first, second, heir = log.read_text().split()
    assert len({first, second, heir}) == 3
    assert printed == {f"{heir} {60 * 'x'}\n"}
    assert _names(root, "teacher") == ["k1"]


def test_what_was_committed_is_found_and_nothing_else_remains(root: Path):
    with Store(root).claim("distill", "k1") as claim:
        assert not claim.exists
        claim.scratch_dir.mkdir()
        (claim.work_dir / "a.txt").write_text("a")
        assert Store(root).finished_dir("distill", "k1") is None
        claim.commit()
    found = Store(root).finished_dir("distill", "k1")
    assert found and found == root / "distill" / "k1"
    assert (found / "a.txt").read_text() == "a"
    assert _names(root) == ["k1"]
    with Store(root).claim("distill", "k1") as again:
        assert again.exists
        assert not again.work_dir.exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_that_a_library_made_private_is_as_readable_as_the_umask_says(
    umask: int, mode: int, root: Path
):
    before = os.umask(umask)
    try:
        with Store(root).claim("distill", "00") as claim:
            (claim.work_dir / "student").mkdir()
            save_file({"weight": torch.zeros(2)}, claim.work_dir / "student" / "model.safetensors")
            (claim.work_dir / "artifact.json").write_text("{}")
            claim.commit()
    finally:
        os.umask(before)
    files = [path for path in (root / "distill" / "00").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode} and len(files) == 2


def test_a_builder_that_fails_leaves_its_scratch_and_no_artifact(root: Path):
    with (
        pytest.raises(RuntimeError, match="by itself"),
        Store(root).claim("distill", "k1") as claim,
    ):
        claim.scratch_dir.mkdir()
        (claim.scratch_dir / "checkpoint").write_text("step 7")
        (claim.work_dir / "half.txt").write_text("half")
        raise RuntimeError("failed by itself")
    assert _names(root) == ["k1.scratch"]
    with Store(root).claim("distill", "k1") as again:
        assert (again.scratch_dir / "checkpoint").read_text() == "step 7"
        again.commit()
    assert _names(root) == ["k1"]


def test_a_builder_killed_on_this_host_is_replaced_at_once_and_its_scratch_survives(root: Path):
    _end(_start_building(root, host="", seconds=60))
    assert Store(root).finished_dir("distill", "k1") is None
    started_s = time.monotonic()
    with Store(root).claim("distill", "k1") as claim:
        assert time.monotonic() - started_s < 40  # LEASE_TIMEOUT_S is 60.
        assert list(claim.work_dir.iterdir()) == []
        assert (claim.scratch_dir / "checkpoint").read_text() == "step 7"
        claim.commit()
    assert _names(root) == ["k1"]


def test_a_builder_killed_on_another_host_is_replaced_when_its_lease_has_stood_still(
    root: Path, fast: None
):
    _end(_start_building(root, host="node7", seconds=60))
    started_s = time.monotonic()
    with Store(root).claim("distill", "k1") as claim:
        assert time.monotonic() - started_s >= 0.2
        assert not claim.exists
        claim.commit()


def test_a_slow_builder_on_another_host_is_waited_for_while_it_renews_its_lease(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "LEASE_TIMEOUT_S", 3.0)
    builder = _start_building(root, host="node7", seconds=4.0)
    with Store(root).claim("distill", "k1") as claim:
        assert claim.exists
        assert (claim.artifact_dir / "half.txt").read_text() == "whole"
    assert builder.wait(timeout=60) == 0
    builder.communicate()


def test_a_host_name_shared_by_two_containers_does_not_let_one_declare_the_other_dead(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    lease = root / "k1.lease-000001"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    other_host = store.host_and_space()
    monkeypatch.undo()
    lease.write_text(f'{{"host": "{store.host_and_space()}", "pid": {dead.pid}}}')
    assert not store.is_alive(lease)
    lease.write_text(f'{{"host": "{other_host}", "pid": {dead.pid}}}')
    assert store.is_alive(lease)


def test_a_stalled_builder_cannot_commit_after_another_took_over_and_finished(
    root: Path, fast: None
):
    with Store(root).claim("distill", "k1") as stalled:
        (stalled.work_dir / "a.txt").write_text("stalled")
        with Store(root).claim("distill", "k1") as heir:
            assert not stalled.work_dir.exists()
            (heir.work_dir / "a.txt").write_text("heir")
            heir.commit()
        stalled.work_dir.mkdir()
        message = r"another process took over .*/distill/k1, since .* no sign of life for 0.2 s"
        with pytest.raises(RuntimeError, match=message):
            stalled.commit()
    assert (root / "distill" / "k1" / "a.txt").read_text() == "heir"
    assert _names(root) == ["k1"]


def test_a_stalled_builder_cannot_commit_while_its_heir_builds_and_does_not_harm_it(
    root: Path, fast: None
):
    with (
        Store(root).claim("distill", "k1") as stalled,
        Store(root).claim("distill", "k1") as heir,
    ):
        with pytest.raises(RuntimeError, match="took over"):
            stalled.commit()
        (heir.work_dir / "a.txt").write_text("heir")
        heir.commit()
    assert (root / "distill" / "k1" / "a.txt").read_text() == "heir"
    assert _names(root) == ["k1"]


def test_a_stalled_builder_that_leaves_keeps_its_heir_s_lease_in_place(root: Path, fast: None):
    stalled = Store(root).claim("distill", "k1")
    stalled.__enter__()
    with Store(root).claim("distill", "k1") as heir:
        stalled.__exit__(None, None, None)
        assert any(".lease-" in name for name in _names(root))
        heir.commit()


def test_a_lease_number_that_came_back_does_not_pass_for_the_stalled_builder_s(
    root: Path, fast: None
):
    with Store(root).claim("distill", "k1") as stalled:
        with Store(root).claim("distill", "k1"):
            pass  # Takes over and gives up: both leases are gone.
        with Store(root).claim("distill", "k1") as third:
            assert "k1.lease-000001" in _names(root)
            stalled.work_dir.mkdir()
            with pytest.raises(RuntimeError, match="took over"):
                stalled.commit()
            (third.work_dir / "a.txt").write_text("third")
            third.commit()
    assert (root / "distill" / "k1" / "a.txt").read_text() == "third"
    assert _names(root) == ["k1"]


def test_who_judged_a_lease_dead_does_not_take_over_from_one_who_took_its_number_since(root: Path):
    with Store(root).claim("distill", "k1") as living:
        # The look was at an earlier lease 1, whose holder had died.
        assert store._create(living.artifact_dir, root / "distill" / "k1.lease-000001") is None
        assert [name for name in _names(root) if "lease" in name] == ["k1.lease-000001"]
        living.commit()


def test_a_rename_that_happened_though_it_is_told_to_have_failed_is_a_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    rename = Path.rename

    def renamed_twice(path: Path, target: Path) -> None:
        rename(path, target)
        rename(path, target)  # As over NFS, when the first answer is lost.

    with Store(root).claim("distill", "k1") as claim:
        (claim.work_dir / "model").write_text("mine")
        monkeypatch.setattr(Path, "rename", renamed_twice)
        claim.commit()
    assert claim.exists and (root / "distill" / "k1" / "model").read_text() == "mine"


def test_a_lease_that_cannot_be_given_back_unmakes_no_artifact(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with Store(root).claim("distill", "k1") as claim:
        claim.commit()
        monkeypatch.setattr(Path, "unlink", refused)
    assert "cannot release the lease" in caplog.text
    with Store(root).claim("distill", "k1") as claim:
        assert claim.exists


def test_who_waits_for_nobody_is_given_nothing_of_what_a_living_process_builds(root: Path):
    with Store(root).claim("inference", "k1") as builder:
        with Store(root).claim_if_free("inference", "k1") as passed_over:
            assert passed_over is None
        with Store(root).claim_if_free("inference", "k2") as free:
            assert free and not free.exists and free.work_dir.is_dir()
            free.commit()
        builder.commit()
    with Store(root).claim_if_free("inference", "k1") as found:
        assert found and found.exists
    assert _names(root, "inference") == ["k1", "k2"]


@pytest.mark.parametrize(("still_s", "is_dead"), [(60, False), (3600, True)])
def test_who_waits_for_nobody_takes_over_what_another_host_left_an_hour_ago(
    still_s: int, is_dead: bool, root: Path
):
    lease = root / "inference" / "k1.lease-000001"
    lease.parent.mkdir(parents=True)
    lease.write_text('{"host": "node7", "pid": 1}')
    then_s = time.time() - still_s
    os.utime(lease, (then_s, then_s))
    with Store(root).claim_if_free("inference", "k1") as claim:
        assert (claim is not None) == is_dead
        if claim:
            claim.commit()
            assert claim.exists


def test_a_request_to_stop_ends_the_wait_for_another_builder(root: Path):
    with interrupt.deferred(), Store(root).claim("distill", "k1") as builder:
        os.kill(os.getpid(), signal.SIGTERM)
        with (
            pytest.raises(interrupt.Preempted, match="stopped by SIGTERM"),
            Store(root).claim("distill", "k1"),
        ):
            pass
        builder.commit()
    assert _names(root) == ["k1"]


def test_a_store_that_cannot_be_written_is_refused_with_its_path_and_the_remedy(root: Path):
    (root / "file").write_text("")
    message = r"store_dir=.*/file/store cannot be written \(Not a directory\); set store_dir"
    with pytest.raises(ValueError, match=message):
        Store(root / "file" / "store").check_writable()
    Store(root / "new" / "store").check_writable()
    assert list((root / "new" / "store").iterdir()) == []


def test_a_tilde_in_the_store_s_path_is_the_home_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(root))
    assert Store(Path("~/store")).root == root / "store"
