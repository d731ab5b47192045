"""Guards of a job: one kind of GPU a sweep, the code that was submitted, no second run beside it.

A queued job reads conf/ and kdwatts/ when it starts, maybe days after it was submitted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from kdwatts.runtime.fingerprint import fingerprint, sha256_file
from kdwatts.runtime.paths import PACKAGE_DIR, conf_dir
from kdwatts.telemetry.holds import holder, takes

SUBMITTED = "KDWATTS_SUBMITTED"
"""Environment variable from driver to job: a key for conf/ and kdwatts/, and their newest file's
time in ns. sbatch hands the environment on, a requeue keeps it, and no fingerprint reads it."""

BUILT_ONCE = ("gpu", "cluster", "launch")
"""Groups of which the launcher's settings are made, once for a whole sweep."""


def goes_to_slurm(settings: DictConfig) -> bool:
    """Whether a composed command, with Hydra's own settings, is for Slurm."""
    return str(settings.hydra.launcher.get("_target_", "")).endswith("SlurmLauncher")


def check_one_launcher(asked: DictConfig, jobs: Sequence[DictConfig]) -> None:
    """Raise ValueError when runs of a sweep need partitions or GPUs of which Slurm is not asked.

    `asked` is the command without what it sweeps: the launcher is built of it, before the runs.
    """
    for job in jobs:
        for group in BUILT_ONCE:
            mine, theirs = job.get(group), asked.get(group)
            if mine == theirs:
                continue
            found = sorted({str(other[group].get("name", other[group])) for other in jobs})
            raise ValueError(
                f"{group} is swept over {', '.join(found)} with hydra/launcher=slurm, and a job "
                "array has one partition and one kind of GPU; send one sweep for each "
                f"{group}"
            )


def note_submission() -> None:
    """Leave word for the jobs of this command of what conf/ and kdwatts/ are now."""
    key, newest_ns = _sources()
    os.environ[SUBMITTED] = f"{key} {newest_ns}"


def check_unchanged(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ValueError when conf/ or kdwatts/ is not what it was when this job was submitted."""
    submitted = environment.get(SUBMITTED)
    if submitted is None:
        return
    key, newest_ns = submitted.split()
    if _sources()[0] == key:
        return
    changed = [path for path in _source_files() if path.stat().st_mtime_ns > int(newest_ns)]
    found = f" ({', '.join(map(_name, changed[:3]))}{', ...' * (len(changed) > 3)})"
    raise ValueError(
        f"conf/ or kdwatts/ was changed{found if changed else ''} after this job was submitted, "
        "and its sweep would mix two versions; restore what was there, or submit the same command "
        "again with hydra.sweep.dir of its folder"
    )


def _source_files() -> list[Path]:
    found = {*conf_dir().rglob("*.yaml"), *PACKAGE_DIR.rglob("*.py")}
    return sorted(path for path in found if path.is_file())


def _name(path: Path) -> str:
    """A source's path from the folder that holds conf/ or kdwatts/."""
    top = conf_dir().parent if path.is_relative_to(conf_dir()) else PACKAGE_DIR.parent
    return path.relative_to(top).as_posix()


def _sources() -> tuple[str, int]:
    """A key for names and bytes of conf/ and kdwatts/, and when the newest was written, in ns."""
    paths = _source_files()
    key = fingerprint([[_name(path), sha256_file(path)] for path in paths])
    return key, max(path.stat().st_mtime_ns for path in paths)


@contextlib.contextmanager
def sole_worker(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder on this node, so that of two that start at once only one writes into it.

    status.json names a process only once that has written it. Raises RuntimeError when another
    process holds the folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    place = run_dir.stat()
    with contextlib.ExitStack() as held:
        address = f"\0kdwatts/folder/{place.st_dev}/{place.st_ino}"
        if not takes(held, address):
            raise RuntimeError(
                f"{run_dir} is in use by {holder(address)} on this machine; wait for it, or end "
                "it and run the same command again"
            )
        yield
