"""The folder of a run or a sweep: claimed before Hydra writes into it, with its first settings."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from kdwatts.artifacts.manifest import CONFIG_NAME, check_alone
from kdwatts.cli import sweep
from kdwatts.cli.overrides import quoted
from kdwatts.cli.preflight import Command
from kdwatts.records.files import replace_text
from kdwatts.runtime.paths import check_path, expanded

log = logging.getLogger(__name__)

HYDRA_DIR_NAME = ".hydra"
SWEEP_NAME = "multirun.yaml"
"""What Hydra writes into the folder of a sweep."""


def folder_of(asked: DictConfig, *, is_sweep: bool) -> str:
    """The folder that a composed command names, expanded. Raises ValueError for an empty one."""
    kind = "sweep" if is_sweep else "run"
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(asked)  # A name may hold ${hydra:...}, which is read of there.
    try:
        given = str(asked.hydra[kind].dir)
    finally:
        hydra.cfg = before
    check_path(f"hydra.{kind}.dir", given)
    return expanded(given)


@contextmanager
def claimed(asked: DictConfig, *, is_sweep: bool) -> Iterator[list[str]]:
    """The override that names the folder, which is made where its name is of the time.

    Empty where the command names it so already: the manifest keeps what was typed.

    Of two that start in the same second one gets another folder, NAME-2. Raises RuntimeError when
    a process that lives is at work in the folder of a single run, and ValueError when the folder
    holds a run of other settings.
    """
    kind = "sweep" if is_sweep else "run"
    path = Path(folder_of(asked, is_sweep=is_sweep))
    written = OmegaConf.to_container(asked.hydra[kind], resolve=False)
    is_fresh = isinstance(written, dict) and "${now:" in str(written["dir"])
    if is_fresh:
        path = fresh_dir(path)
    elif is_sweep:
        if (path / CONFIG_NAME).is_file() and not (path / SWEEP_NAME).is_file():
            raise ValueError(
                f"hydra.sweep.dir={path} is the folder of a single run; give another, or go on "
                f"with the run by hydra.run.dir={path} without -m"
            )
    else:
        if (path / SWEEP_NAME).is_file():
            raise ValueError(
                f"hydra.run.dir={path} is the folder of a sweep; give another, or go on with the "
                f"sweep by -m and hydra.sweep.dir={path}"
            )
        check_alone(path)
        _check_settings(path, asked)
    try:
        is_named = isinstance(written, dict) and str(path) == written["dir"]
        yield [] if is_named else [f"hydra.{kind}.dir={quoted(str(path))}"]
    finally:
        if is_fresh:
            with suppress(OSError):  # Not empty, or already gone.
                path.rmdir()


def _check_settings(run_dir: Path, asked: DictConfig) -> None:
    """Raise ValueError where a command asks for something else than the run in its folder.

    A command that names the folder alone goes on with the settings of the run.
    """
    if asked.hydra.overrides.task:
        tree = asked.copy()
        with open_dict(tree):
            del tree["hydra"]
        sweep.check_same(run_dir, tree, kind="run")


@contextmanager
def folder_of_hydra(leads: bool, command: Command | None) -> Iterator[None]:
    """Let Hydra write into the run's folder on the first rank, and on others into one for nothing.

    Its folder is named by the time, which ranks read differently.
    """
    if leads:
        if command is None:
            yield
            return
        with claimed(command.tree, is_sweep=command.is_sweep) as named:
            sys.argv += named
            yield
        return
    with tempfile.TemporaryDirectory(prefix="kdwatts-rank-") as folder:
        sys.argv += [
            *(f"hydra.{mode}.dir={folder}" for mode in ("run", "sweep")),
            "hydra/hydra_logging=disabled",
            "hydra/job_logging=disabled",
        ]
        yield


def fresh_dir(path: Path) -> Path:
    """A new folder of this name, or with -2, -3 and so on behind it: nobody else's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, number = path, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")
        else:
            return folder


def keep_first_command(run_dir: Path, tree: DictConfig, hydra: Any) -> None:
    """Write into .hydra what the first start in a folder was asked; a later one changes nothing.

    Hydra itself would write it before anybody looked whether the folder is free, and anew for each
    command, also for one whose settings are then refused.
    """
    folder = run_dir / HYDRA_DIR_NAME
    if (run_dir / CONFIG_NAME).is_file() and folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"config": tree, "hydra": hydra, "overrides": hydra.hydra.overrides.task}
    for name, part in parts.items():
        OmegaConf.save(part, folder / f"{name}.yaml")


def settings_of_first_start(
    run_dir: Path, tree: DictConfig, overrides: Sequence[str]
) -> DictConfig:
    """The configuration of the folder's first attempt; this one's when it is the first.

    Where its artifacts lie and how it is sent, which change no result, are as asked for now; so is
    a later last stage, which is written down. `overrides` are what the command says beside the
    folder: one that says nothing asks for nothing.
    """
    path = run_dir / CONFIG_NAME
    first = sweep.first_settings(run_dir)
    if first is None:
        replace_text(path, OmegaConf.to_yaml(tree, resolve=True))
        return tree
    if not overrides:
        return first
    if sweep.goes_further(first, tree):
        log.info("the run was to end after %s, and now goes on to %s", first.until, tree.until)
        first.until = tree.until
        replace_text(path, OmegaConf.to_yaml(first))
    if sweep.differences(first, tree):
        log.warning("the run goes on with the settings of its first start, %s", path)
    for name in sweep.NOT_COMPARED:
        first[name.rstrip(".")] = tree[name.rstrip(".")]
    return first
