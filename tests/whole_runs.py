"""Whole runs in this process, for tests of what a run leaves behind."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.stages.graph import plan


def tree_of(*overrides: str) -> DictConfig:
    """The configuration as a run finds it on a machine without a GPU."""
    return resolve_gpu(compose(overrides), [])


def config_of(*overrides: str) -> Config:
    return to_config(tree_of(*overrides))


def run(run_dir: Path, *overrides: str) -> Path:
    """The folder of one run, which is made where it is missing."""
    run_dir.mkdir(parents=True, exist_ok=True)
    run_in(run_dir, tree_of(*overrides))
    return run_dir


def keys_of(*overrides: str) -> dict[str, str]:
    """Name of each stage to its key."""
    return {planned.name: planned.key for planned in plan(config_of(*overrides), [])}


def artifact_of(store: Path, name: str, *overrides: str) -> Path:
    """Where the store keeps what this stage of a run makes."""
    stages = plan(config_of(f"store_dir={store}", *overrides), [])
    (found,) = [store / planned.stage / planned.key for planned in stages if planned.name == name]
    return found
