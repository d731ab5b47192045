"""What a command asks for, composed as Hydra will, before a log or a folder exists."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from kdwatts import guards
from kdwatts.config import Config, to_config
from kdwatts.hardware import resolve_gpu
from kdwatts.paths import conf_dir
from kdwatts.planning.unmade import unmade_teacher
from kdwatts.telemetry.nvml import list_gpus

VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra 1.3 warns of a missing version base, Hydra 1.4 of one that is given."""

ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: Sequence[str]) -> DictConfig:
    """The composed tree of one run, as Hydra would build it, without its own settings."""
    with hydra.initialize_config_dir(str(conf_dir()), **VERSION_BASE):
        return hydra.compose("config", overrides=list(overrides))


def expand(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The overrides of each run of a sweep, in Hydra's order; the only ones without -m."""
    if not multirun:
        return [list(overrides)]
    # A key that is given again takes the place of the first, as in Hydra's sweeper.
    choices = {
        item.get_key_element(): [
            f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()
        ]
        if item.is_sweep_override()
        else [str(item.input_line)]
        for item in OverridesParser.create().parse_overrides(list(overrides))
    }
    return [list(combination) for combination in itertools.product(*choices.values())]


def _swept_by_option(
    overrides: Sequence[str], *, multirun: bool
) -> tuple[list[str], bool, DictConfig]:
    """The sweep that an experiment's file asks for, as overrides, and whether there is a sweep.

    Beside them the command as composed without what it sweeps, Hydra's own settings included.
    """
    fixed = [
        str(item.input_line)
        for item in OverridesParser.create().parse_overrides(list(overrides))
        if not (multirun and item.is_sweep_override())
    ]
    with hydra.initialize_config_dir(str(conf_dir()), **VERSION_BASE):
        asked = hydra.compose("config", overrides=fixed, return_hydra_config=True)
    multirun = multirun or asked.hydra.mode == RunMode.MULTIRUN
    params = asked.hydra.sweeper.params if multirun else None
    return [f"{key}={values}" for key, values in (params or {}).items()], multirun, asked


def preflight(overrides: Sequence[str], *, multirun: bool) -> list[Config]:
    """The configuration of every run a command asks for; raises for the first impossible one.

    A teacher that has still to be made is no hindrance to a plan.
    """
    cards = list_gpus()
    swept, multirun, asked = _swept_by_option(overrides, multirun=multirun)
    jobs = [compose(job) for job in expand([*swept, *overrides], multirun=multirun)]
    if multirun and guards.goes_to_slurm(asked):
        guards.check_one_launcher(asked, jobs)
        guards.note_submission()
    configs = [to_config(resolve_gpu(job, cards)) for job in jobs]
    for config in configs:
        missing = unmade_teacher(config.model)
        if missing and config.until != "plan":
            raise ValueError(f"model={config.model.name}: {missing}")
    return configs
