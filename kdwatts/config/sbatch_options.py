"""Options of sbatch: which of our settings gives which, and what a site may add to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SETTINGS = {
    "partition": "cluster.partition",
    "account": "cluster.account",
    "qos": "cluster.qos",
    "constraint": "cluster.constraint",
    "gres": "cluster.gres",
    "cpus-per-task": "cluster.cpus_per_task",
    "mem": "cluster.mem_gb",
    "mem-per-cpu": "cluster.mem_gb",
    "mem-per-gpu": "cluster.mem_gb",
    "time": "cluster.timeout_min",
    "signal": "cluster.signal_delay_s",
    "array": "cluster.concurrent",
    "requeue": "cluster.max_requeues",
    "no-requeue": "cluster.max_requeues",
    "nodes": "cluster.nodes",
    "ntasks": "hydra.launcher.tasks_per_node",
    "ntasks-per-node": "hydra.launcher.tasks_per_node",
    "job-name": "hydra.launcher.name",
    "output": "hydra.sweep.dir",
    "error": "hydra.sweep.dir",
    "open-mode": "hydra.sweep.dir",
    "kill-on-invalid-dep": "launch.teacher_first",
}
"""Each option that a sweep gives sbatch, or that contradicts one, to what sets it here."""

UNREADABLE = ("clusters", "help", "parsable", "quiet", "test-only", "version", "wait", "wrap")
"""With these sbatch sends nothing, or answers otherwise than the launcher reads."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


def option_name(key: str) -> str:
    """The long name of an option: `mail_type` and `mail-type` are one."""
    return key.replace("_", "-")


def check_extra(extra: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError for what cannot be handed to sbatch beside the section's own settings.

    An option whose own setting is null, which leaves it out, may be given.
    """
    for key, value in extra.items():
        name, shown = option_name(key), f"cluster.extra.{key}={value}"
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"cluster.extra has {key!r}, which is not the long name of an sbatch option; write "
                "the name as sbatch's manual does, without the dashes, such as reservation"
            )
        if not isinstance(value, str | int | float | None) or value is False:
            raise ValueError(
                f"{shown} is not a value that sbatch takes; give words or a number, true for an "
                "option without a value, or null to leave it out"
            )
        if any(ord(letter) < 32 for letter in str(value)):
            raise ValueError(f"cluster.extra.{key}={value!r} is more than one line; give one")
        if name in UNREADABLE:
            raise ValueError(
                f"{shown} does not work: with --{name} sbatch sends no job, or does not say which "
                "one it sent; leave it out"
            )
        setting = SETTINGS.get(name)
        group, _, field = (setting or "").rpartition(".")
        if setting and value is not None and not (group == "cluster" and settings[field] is None):
            own = f"{setting}={settings[field]}" if group == "cluster" else setting
            raise ValueError(f"{shown} and {own} both set sbatch's --{name}; give {setting} only")
