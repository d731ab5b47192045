from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts import __version__
from kdwatts.artifacts import manifest
from kdwatts.records.doctor_record import DoctorRecord, record_path
from kdwatts.records.files import read_json, write_json
from kdwatts.telemetry.clock_offset import ClockOffset
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.telemetry.nvml import Device

H100 = Device(0, "GPU-5f0c", "NVIDIA H100 80GB HBM3", 79.65, 700.0, "570.86", True, False)
REPOSITORY = Path(__file__).parents[2]


def test_attempts_count_from_one_and_go_on_where_the_folder_was_left(tmp_path: Path):
    assert manifest.next_attempt(tmp_path) == 1
    manifest.write_status(tmp_path, state="running", stage="distill", attempt=1)
    assert manifest.next_attempt(tmp_path) == 2
    manifest.write_status(tmp_path, state="failed", stage="distill", attempt=2, error="why")
    assert manifest.next_attempt(tmp_path) == 3
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["stage"], status["error"]) == ("failed", "distill", "why")


def test_a_status_says_where_its_process_is_and_an_amendment_leaves_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    manifest.write_status(tmp_path, state="running", stage="distill", attempt=1)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    manifest.amend_status(tmp_path, state="failed", error="killed")
    status = manifest.read_status(tmp_path)
    place = (status["host"], status["pid"], status["job"])
    assert place == (socket.gethostname(), os.getpid(), "12_3")
    assert (status["state"], status["stage"], status["error"]) == ("failed", "distill", "killed")


def test_a_folder_is_left_alone_while_the_process_that_works_in_it_lives(tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    manifest.write_status(tmp_path, state="running", stage="distill", attempt=1)
    manifest.check_alone(tmp_path)  # Our own.
    manifest.amend_status(tmp_path, pid=other.pid)
    try:
        with pytest.raises(RuntimeError, match=f"is in use by pid {other.pid} on this"):
            manifest.check_alone(tmp_path)
    finally:
        other.communicate(b"\n")
    manifest.check_alone(tmp_path)


def test_a_process_that_got_the_number_of_a_dead_one_does_not_hold_its_folder(tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        manifest.write_status(tmp_path, state="running", stage="distill", attempt=1)
        status = manifest.read_status(tmp_path)
        long_ago = {**status, "pid": other.pid, "time_utc": "2020-01-01T00:00:00+00:00"}
        write_json(tmp_path / "status.json", long_ago)
        manifest.check_alone(tmp_path)
    finally:
        other.communicate(b"\n")


def test_a_status_that_is_not_ours_is_refused_by_its_path(tmp_path: Path):
    (tmp_path / "status.json").write_text('{"attempt": 1}')
    with pytest.raises(ValueError, match=rf"{tmp_path}/status.json: schema is None"):
        manifest.next_attempt(tmp_path)


def test_a_manifest_says_what_the_attempt_stands_on_and_keeps_the_earlier_ones(
    tmp_path: Path, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_CLUSTER_SECRET", "no business of ours")
    config = configure("gpu=cpu")
    for attempt in (1, 2, 3):
        manifest.write_manifest(
            tmp_path,
            config,
            [facts_of_this_node([H100])],
            attempt=attempt,
            overrides=[f"training.seed={attempt}"],
        )
    written = read_json(tmp_path / "manifest.json")
    assert (written["attempt"], written["kdwatts"]) == (3, __version__)
    assert [earlier["attempt"] for earlier in written["earlier_attempts"]] == [1, 2]
    assert all("earlier_attempts" not in earlier for earlier in written["earlier_attempts"])
    assert written["overrides"] == ["training.seed=3"]
    assert written["slurm"] == {"SLURM_JOB_ID": "4711"}
    assert written["gpus"][0]["uuid"] == "GPU-5f0c"
    assert written["gpus"][0]["power_limit_w"] == 700
    assert written["versions"]["omegaconf"].startswith("2.")
    assert written["cpu_estimate"]["cpu_tdp_w"] == 280
    assert written["site"]["name"] == "world"
    assert written["compile"] == {"value": False, "why": "models are not compiled on a CPU"}


def test_a_manifest_names_the_last_examination_of_each_gpu_and_a_broken_one_by_its_reason(
    tmp_path: Path, configure: Callable[..., Any]
):
    store, host = tmp_path / "store", socket.gethostname()
    config = configure("gpu=cpu", f"store_dir={store}")

    def doctor(*gpus: Device) -> list[dict[str, Any]]:
        node = facts_of_this_node(gpus)
        manifest.write_manifest(tmp_path, config, [node], attempt=1, overrides=[])
        return read_json(tmp_path / "manifest.json")["doctor"]

    (without,) = doctor()
    assert (without["gpu_uuid"], without["time_utc"], without["counter"]) == (None, None, None)
    assert without["reason"] == f"python -m kdwatts.doctor was never run on {host} with this store"
    record = DoctorRecord(
        time_utc="2026-12-01T08:00:00+00:00", host=host, gpu_uuid="GPU-5f0c", gpu=H100.name,
        cpu="EPYC", pair="tiny", minutes=5.0, took_s=290.0, kdwatts=__version__,
    )  # fmt: skip
    path = record_path(store, host, "GPU-5f0c")
    path.parent.mkdir(parents=True)
    write_json(path, record)
    second = replace(H100, index=1, uuid="GPU-77aa")
    found = {one["gpu_uuid"]: one for one in doctor(H100, second)}
    assert found["GPU-5f0c"]["time_utc"] == "2026-12-01T08:00:00+00:00"
    assert found["GPU-77aa"]["reason"].startswith("python -m kdwatts.doctor was never run on GPU-7")
    path.write_text('{"schema": 2, "host": "')
    (broken,) = doctor(H100)
    assert broken["reason"].startswith(f"{path}: not JSON")


def test_a_manifest_of_two_nodes_names_both_with_their_gpus_traces_and_examinations(
    tmp_path: Path, configure: Callable[..., Any]
):
    config = configure("gpu=cpu", f"store_dir={tmp_path / 'store'}")
    first = replace(facts_of_this_node([H100], ranks=[0, 1]), host="n1")
    second = replace(first, number=2, host="n2", ranks=[2], gpus=[replace(H100, uuid="GPU-77aa")])
    manifest.write_manifest(tmp_path, config, [first, second], attempt=1, overrides=[])
    written = read_json(tmp_path / "manifest.json")
    assert written["host"] == "n1"
    assert written["launch"] == {"nodes": 2, "ranks": 3}
    assert [(gpu["host"], gpu["index"], gpu["uuid"]) for gpu in written["gpus"]] == [
        ("n1", 0, "GPU-5f0c"),
        ("n2", 0, "GPU-77aa"),
    ]
    assert [one["host"] for one in written["doctor"]] == ["n1", "n2"]
    assert [node["trace"] for node in written["nodes"]] == ["telemetry.jsonl", "telemetry.n2.jsonl"]
    # Until the second has a meter, nobody knows its clock.
    assert [node["clock_offset_s"] for node in written["nodes"]] == [0.0, None]
    known = manifest.node_record(second, ClockOffset(1000.25, 1e-4))
    assert (known["clock_offset_s"], known["clock_skew_s"]) == (1000.25, 1e-4)


def test_equal_configurations_have_one_hash_and_different_ones_another(
    tmp_path: Path, configure: Callable[..., Any]
):
    hashes = []
    for overrides in ([], [], ["training.seed=1"]):
        config = configure("gpu=cpu", *overrides)
        node = facts_of_this_node([])
        manifest.write_manifest(tmp_path, config, [node], attempt=1, overrides=overrides)
        hashes.append(read_json(tmp_path / "manifest.json")["config_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_commit_is_the_checkout_s_with_a_mark_when_files_differ():
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True)
    if head.returncode or not (REPOSITORY / ".git").exists():
        pytest.skip("the tests do not run in a checkout")
    commit = manifest.git_commit()
    assert commit is not None
    assert commit.removesuffix("+changes") == head.stdout.strip()


def test_a_package_installed_inside_somebody_else_s_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path.resolve() / "venv" / "kdwatts"
    package.mkdir(parents=True)
    monkeypatch.setattr(manifest, "PACKAGE_DIR", package)
    assert manifest.git_commit() is None
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert manifest.git_commit() is None
