"""manifest.json and status.json: what a run was started with, and how far it is."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from kdwatts import __version__
from kdwatts.config.experiment import Config, to_dict
from kdwatts.records.doctor_record import last_of
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.records.traces import trace_name
from kdwatts.runtime.fingerprint import fingerprint
from kdwatts.runtime.paths import PACKAGE_DIR, expanded
from kdwatts.runtime.slurm_jobs import alive, own_id
from kdwatts.telemetry.clock_offset import ClockOffset
from kdwatts.telemetry.node_facts import NodeFacts

PACKAGES = (
    "torch", "transformers", "datasets", "hydra-core", "omegaconf", "lm-eval", "nvidia-ml-py",
    "psutil", "safetensors", "numpy", "peft", "bitsandbytes",
)  # fmt: skip
STATUS_NAME = "status.json"
MANIFEST_NAME = "manifest.json"
CONFIG_NAME = "config.yaml"


def next_attempt(run_dir: Path) -> int:
    """The number of the next attempt in a run folder. It is 1 in a new folder."""
    return read_status(run_dir).get("attempt", 0) + 1


def read_status(run_dir: Path) -> dict[str, Any]:
    """The content of status.json. Empty in a folder where no run has started.

    Raises ValueError for a file that kdwatts did not write.
    """
    path = run_dir / STATUS_NAME
    status = read_json(path) if path.is_file() else {}
    if not isinstance(status, dict):
        raise ValueError(f"{path} is not what kdwatts wrote; delete it and run again")
    return status


def check_alone(run_dir: Path) -> None:
    """Raise RuntimeError while another live process works in the folder."""
    status = read_status(run_dir)
    if status.get("state") != "running" or status.get("pid") in (None, os.getpid()):
        return
    job = status.get("job")
    if status["host"] == socket.gethostname():
        found = f"pid {status['pid']} on this machine" if _lives(status) else None
    else:
        found = f"job {job}" if job not in (None, own_id()) and alive([job]) else None
    if found:
        raise RuntimeError(
            f"{run_dir} is in use by {found}; wait until that run ends, or end it, and run the "
            "same command again"
        )


def _lives(status: dict[str, Any]) -> bool:
    """Whether the process that wrote the status lives; its number may have been given anew."""
    try:
        began = psutil.Process(status["pid"]).create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return began <= datetime.fromisoformat(status["time_utc"]).timestamp() + 1


def amend_status(run_dir: Path, **facts: Any) -> None:
    """Replace some fields of status.json. Attempt, host, pid and job stay those of the run."""
    time_utc = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(run_dir / STATUS_NAME, {**read_status(run_dir), **facts, "time_utc": time_utc})


def write_status(
    run_dir: Path,
    *,
    state: str,
    stage: str | None,
    attempt: int,
    error: str | None = None,
    stopped_by: str | None = None,
    node: str | None = None,
) -> None:
    """Replace status.json: the state (running, done, failed or preempted), the stage, and why.

    `stopped_by` says what ended the training of a finished run: target_tokens or budget_kj. `node`
    is the host of the rank that failed or was lost, in a run of several nodes. Host, pid and Slurm
    job are those of the process that writes it.
    """
    write_json(
        run_dir / STATUS_NAME,
        {
            "schema": SCHEMA,
            "state": state,
            "stage": stage,
            "attempt": attempt,
            "error": error,
            "stopped_by": stopped_by,
            "node": node,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": own_id(),
            "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def write_manifest(
    run_dir: Path,
    config: Config,
    nodes: Sequence[NodeFacts],
    *,
    attempt: int,
    overrides: Sequence[str],
) -> None:
    """Write what this attempt runs with. Manifests of earlier attempts are kept inside it.

    `nodes` are those of the run, with the GPUs that it uses; this process is on the first.
    """
    first, store_dir = nodes[0], Path(expanded(config.store_dir)).resolve()
    path = run_dir / MANIFEST_NAME
    earlier: list[dict[str, Any]] = []
    if path.is_file():
        previous = read_json(path)
        earlier = [*previous.pop("earlier_attempts", []), previous]
    write_json(
        path,
        {
            "schema": SCHEMA,
            "attempt": attempt,
            "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "kdwatts": __version__,
            "git_commit": git_commit(),
            "config_hash": fingerprint(to_dict(config)),
            "overrides": list(overrides),
            "python": platform.python_version(),
            "versions": package_versions(),
            "host": first.host,
            "system": platform.platform(),
            "cpu": first.cpu,
            "cpu_threads": first.cpu_threads,
            "memory_gib": first.memory_gib,
            "launch": {"nodes": len(nodes), "ranks": sum(len(node.ranks) for node in nodes)},
            "nodes": [node_record(node) for node in nodes],
            "gpus": [{**asdict(gpu), "host": node.host} for node in nodes for gpu in node.gpus],
            "doctor": [
                found
                for node in nodes
                for found in last_of(
                    store_dir, node.host, [gpu.uuid for gpu in node.gpus] or [None]
                )
            ],
            "command": sys.argv,
            "slurm": {k: v for k, v in sorted(os.environ.items()) if k.startswith("SLURM_JOB")},
            "cpu_estimate": _cpu_estimate(config),
            "site": to_dict(config.site),
            "compile": {
                "value": config.training.compile,
                "why": config.training.compile_why,
            },
            "teacher_quantization": config.model.teacher and config.model.teacher.quantization,
            "earlier_attempts": earlier,
        },
    )


def node_record(node: NodeFacts, clock: ClockOffset | None = None) -> dict[str, Any]:
    """What the manifest says of a node. `clock` is its monotonic clock less the first node's."""
    if node.number == 1:
        clock = ClockOffset(0.0, 0.0)
    return {
        "number": node.number,
        "host": node.host,
        "cpu": node.cpu,
        "cpu_threads": node.cpu_threads,
        "memory_gib": node.memory_gib,
        "ranks": node.ranks,
        "trace": trace_name(node.number),
        "clock_offset_s": clock and clock.offset_s,
        "clock_skew_s": clock and clock.skew_s,
    }


def add_to_manifest(run_dir: Path, **facts: Any) -> None:
    """Add what an attempt found out later to its manifest, in one atomic replacement."""
    path = run_dir / MANIFEST_NAME
    manifest = read_json(path) if path.is_file() else {"schema": SCHEMA}
    write_json(path, {**manifest, **facts})


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, with `+changes` if it was changed.

    None outside of a checkout.
    """

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(PACKAGE_DIR), *arguments]
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    # An installed package may lie inside somebody else's repository.
    if top is None or Path(top) != PACKAGE_DIR.parent:
        return None
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return f"{commit}+changes" if commit and changes else commit


def package_versions() -> dict[str, str | None]:
    """The packages that figures depend on, and their versions; None for one that is missing."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_estimate(config: Config) -> dict[str, Any] | None:
    telemetry = config.telemetry
    if telemetry.cpu_estimate == "off":
        return None
    return {
        "method": "tdp_model",
        "cpu_tdp_w": telemetry.cpu_tdp_w,
        "cpu_tdp_threads": telemetry.cpu_tdp_threads,
        "source": telemetry.cpu_tdp_source,
    }
