"""A sweep as its driver sees it: its runs, how each ended, the table that is printed last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kdwatts.artifacts.manifest import CONFIG_NAME, read_status
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.config.experiment import STAGES, Config

EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED = 0, 1, os.EX_TEMPFAIL
"""75 is EX_TEMPFAIL of sysexits.h: try the same command again."""

NOT_COMPARED = ("cluster.", "launch.", "store_dir")
"""Settings that another attempt at a run may have: they change nothing that it finds out."""
READ_BY_PLANS = ("gpu.link_gb_s", "gpu.network_gb_s", "gpu.links_source")
"""Settings that no run reads, which older folders lack."""
LEFT_TO_THE_DEVICE = {"training.compile": (False, "auto"), "training.chunk_rows": (256, None)}
"""The default of older folders, and that of now. A run goes on with the value in its folder."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    run_dir: Path
    state: str
    """done, failed or preempted; running or waiting where the driver left before the end."""
    reason: str


sweep_dirs: dict[Path, Path] = {}
"""Folder of each run of this process's sweep, in its order, to the sweep's; empty without one."""
known_outcomes: dict[Path, Outcome] = {}
"""What the driver knows better than a run's own status.json."""
prerequisites: list[str] = []
"""In a job of an array: artifacts that were to be made before it began."""


def note_outcome(run_dir: Path, state: str, reason: str) -> None:
    """Have the table say this of a run."""
    known_outcomes[run_dir] = Outcome(run_dir, state, reason)


def is_done(run_dir: Path) -> bool:
    return read_status(run_dir).get("state") == "done"


def check_same(run_dir: Path, tree: DictConfig, *, kind: str = "sweep") -> None:
    """Raise ValueError when the folder holds a run of other settings than these.

    A single run may be asked to go further than it was at first, and a run of a sweep may have gone
    further since.
    """
    first = first_settings(run_dir, kind=kind)
    if first is None:
        return
    apart = differences(first, tree)
    earlier, later = (first, tree) if kind == "run" else (tree, first)
    if goes_further(earlier, later):
        apart.pop("until", None)
    for key, (found, asked) in apart.items():
        raise ValueError(
            f"{run_dir} holds a run with {key}={_shown(found)}, and this command asks for "
            f"{_shown(asked)}; give another hydra.{kind}.dir, or the settings that the run has"
        )


def goes_further(first: DictConfig, tree: DictConfig) -> bool:
    """Whether `tree` asks for a later last stage than the first start of a run did."""
    return STAGES.index(tree.until) > STAGES.index(first.until)


def _shown(value: Any) -> Any:
    """A value as a command has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value


def first_settings(run_dir: Path, *, kind: str = "run") -> DictConfig | None:
    """The configuration of the folder's first attempt; None where it has none.

    Raises ValueError for a file that is torn, or of a version with other settings.
    """
    path = run_dir / CONFIG_NAME
    if not path.is_file():
        return None
    try:
        saved = OmegaConf.load(path)
        if not isinstance(saved, DictConfig):
            raise ValueError("it is a list")
        first = OmegaConf.merge(OmegaConf.structured(Config), saved)
        missing = OmegaConf.missing_keys(first)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        problem = in_one_sentence(error).partition(";")[0]
    else:
        if isinstance(first, DictConfig) and not missing:
            return first
        problem = f"it lacks {min(missing, default='all')}"
    raise ValueError(
        f"{path} is torn or of another version of kdwatts ({problem}); give another "
        f"hydra.{kind}.dir, or remove that folder"
    )


def differences(saved: Any, tree: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Key to the value there and here, of all that matters to a run.

    What GPU `gpu=auto` found there, and where and how runs are sent, does not. A value that was the
    default before the device decided is what was left to the device then.
    """
    first: Any = OmegaConf.merge(OmegaConf.structured(Config), saved)
    if tree.gpu.name == "auto":
        tree = tree.copy()  # Other settings may follow from the GPU's.
        with open_dict(tree):
            tree.gpu = first.gpu
    there, here = _read_of(_flat(first)), _read_of(_flat(tree))
    pairs = {key: (there.get(key), here.get(key)) for key in there | here}
    return {
        key: (found, asked)
        for key, (found, asked) in pairs.items()
        if found != asked
        and not key.startswith((*NOT_COMPARED, *READ_BY_PLANS))
        and LEFT_TO_THE_DEVICE.get(key) != (found, asked)
    }


def _read_of(flat: dict[str, Any]) -> dict[str, Any]:
    """The settings without those of serving under load where no engine is measured.

    Then nothing comes after inference, which was the last stage when older folders were made.
    """
    if flat.get("eval.serving.engine") != "loop":
        return flat
    unread = "eval.serving."
    kept = {k: v for k, v in flat.items() if k == f"{unread}engine" or not k.startswith(unread)}
    return kept | ({"until": "serving"} if flat.get("until") == "inference" else {})


def _flat(tree: Any) -> dict[str, Any]:
    """Dotted key to value, interpolations resolved; an empty group is a value."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, part in value.items():
                add(f"{prefix}.{name}" if prefix else str(name), part)
        else:
            flat[prefix] = value

    add("", OmegaConf.to_container(tree, resolve=True))
    return flat


def check_prerequisites() -> None:
    """Raise RuntimeError when what jobs before this one were to make is not there.

    Were it made here, every other element of the array would wait for it with a GPU in hand.
    """
    missing = [path for path in prerequisites if not Path(path).is_dir()]
    if missing:
        raise RuntimeError(
            f"{missing[0]} was made before this job began, and this node cannot see it; set "
            "store_dir to a folder that all nodes see, and run the same command again"
        )


def outcome(run_dir: Path) -> Outcome:
    """What became of a run: what the driver knows of it, or what status.json says."""
    if run_dir in known_outcomes:
        return known_outcomes[run_dir]
    status = read_status(run_dir)
    if not status:
        return Outcome(run_dir, "preempted", "not started: the sweep was stopped before it")
    reason = status.get("error") or ""
    if status["state"] == "running":
        reason = f"at {status['stage']} as {place_of(status)}"
    return Outcome(run_dir, status["state"], reason)


def place_of(status: dict[str, Any]) -> str:
    """Where the process of an attempt is, from its status.json."""
    job, host, pid = (status.get(name) for name in ("job", "host", "pid"))
    return f"job {job}" if job else f"pid {pid} on {host}"


def table(outcomes: Sequence[Outcome], num_untouched: int = 0) -> str:
    """A line a run: state, folder, reason; then how many of each state, and how to go on.

    `num_untouched` runs of the sweep have not even a folder.
    """
    folders = [shown_path(found.run_dir) for found in outcomes]
    width = max(map(len, folders))
    lines = [
        f"{found.state:<9}  {folder:<{width}}  {found.reason}".rstrip()
        for found, folder in zip(outcomes, folders, strict=True)
    ]
    states = [found.state for found in outcomes] + ["not started"] * num_untouched
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    last = f"{len(states)} runs: {counts}"
    if set(states) != {"done"}:
        sweep_dir = shown_path(sweep_dirs[outcomes[0].run_dir])
        last += f"; to go on, run the same command with hydra.sweep.dir={sweep_dir}"
    return "\n".join([*lines, last])


def exit_code(outcomes: Sequence[Outcome], num_untouched: int = 0) -> int:
    """0 if every run is done, 1 if one failed, 75 if going on is all that is left to do."""
    states = {found.state for found in outcomes}
    if "failed" in states:
        return EXIT_FAILED
    return EXIT_DONE if states == {"done"} and not num_untouched else EXIT_PREEMPTED


def shown_path(path: Path) -> str:
    """A folder as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
