"""The configurations of a command, composed and checked before a log or a folder exists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli import guards
from kdwatts.cli.effects import check_effects
from kdwatts.cli.flags import ConfigFile
from kdwatts.cli.overrides import check_kind, check_words, null_part, parsed
from kdwatts.cli.refusal import names_a_null_part
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.data.local_rows import check_there
from kdwatts.telemetry.nvml import list_gpus

VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra 1.3 warns of a missing version base, Hydra 1.4 of one that is given."""

ConfigStore.instance().store(name="schema", node=Config)


@dataclass(frozen=True)
class Command:
    """What a command asks for."""

    configs: list[Config]
    """Of every run."""
    is_sweep: bool
    tree: DictConfig
    """As composed without what it sweeps, with Hydra's own settings."""

    @property
    def is_sweep_of_one_here(self) -> bool:
        """Whether -m does nothing for it; Slurm is sent a single run by -m, too."""
        return self.is_sweep and len(self.configs) == 1 and not guards.goes_to_slurm(self.tree)

    @property
    def until(self) -> set[str]:
        """Stages at which the runs end; where one is plan or prefetch, all are."""
        return {config.until for config in self.configs}


@contextmanager
def _composer(source: ConfigFile) -> Iterator[None]:
    """Hydra with the groups of a file's folder; those of its --config-dir win over them."""
    with hydra.initialize_config_dir(str(source.folder), **VERSION_BASE):
        if source.added_dir is not None:
            loader: Any = GlobalHydra.instance().config_loader()
            path = f"file://{Path(source.added_dir).absolute()}"
            anchor = SearchPathQuery(provider="schema")
            loader.config_search_path.prepend("command-line", path, anchor)
            loader.repository = ConfigRepository(loader.config_search_path)
        yield


def compose(
    overrides: Sequence[str],
    *,
    source: ConfigFile | None = None,
    is_swept: bool = False,
    with_hydra: bool = False,
) -> DictConfig:
    """The composed tree of one run, as Hydra would build it, without its own settings.

    `source` is conf/config.yaml where it is None. Raises ValueError, beside what Hydra raises, for
    a key of a part that is null.
    """
    source = source or ConfigFile()
    with _composer(source):
        try:
            return hydra.compose(source.name, list(overrides), return_hydra_config=with_hydra)
        except Exception as error:
            if not names_a_null_part(error):
                raise
            words = [w for w, o in _by_word(overrides) if "." not in o.key_or_group]
            base = hydra.compose(source.name, words, return_hydra_config=True)
            if said := null_part(overrides, base, is_swept=is_swept):
                raise ValueError(said) from None
            raise


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
        for item in parsed(overrides)
    }
    for key, values in choices.items():
        if not values:
            raise ValueError(f"the sweep over {key} has no value and so no run; give one at least")
    return [list(combination) for combination in itertools.product(*choices.values())]


def _by_word(overrides: Sequence[str]) -> list[tuple[str, Override]]:
    return list(zip(overrides, parsed(overrides), strict=True))


def _swept_by_option(
    overrides: Sequence[str], *, multirun: bool, source: ConfigFile
) -> tuple[list[str], bool, DictConfig]:
    """The sweep that an experiment's file asks for, as overrides, and whether there is a sweep.

    Beside them the command as composed without what it sweeps, Hydra's own settings included.
    """
    fixed = [
        word for word, item in _by_word(overrides) if not (multirun and item.is_sweep_override())
    ]
    asked = compose(fixed, source=source, with_hydra=True)
    if multirun and asked.hydra.mode == RunMode.RUN:
        raise ValueError(
            "-m begins a sweep and hydra.mode=RUN a single run; leave one of the two out"
        )
    multirun = multirun or asked.hydra.mode == RunMode.MULTIRUN
    params = asked.hydra.sweeper.params if multirun else None
    return [f"{key}={values}" for key, values in (params or {}).items()], multirun, asked


def _check_local(overrides: Sequence[str], source: ConfigFile) -> None:
    """Raise ValueError for a file of one's own that is not there, which Hydra passes over."""
    for word, item in _by_word(overrides):
        if item.key_or_group != "local":
            continue
        with _composer(source):
            options = GlobalHydra.instance().config_loader().get_group_options("local")
        names = list(item.sweep_string_iterator()) if item.is_sweep_override() else [item.value()]
        for name in names:
            if name is not None and name not in options:
                raise ValueError(
                    f"{word} names no file of conf/local; choose one of {', '.join(options)}, or "
                    f"write conf/local/{name}.yaml"
                )


def command_of(
    overrides: Sequence[str],
    *,
    multirun: bool,
    source: ConfigFile | None = None,
    is_shown: bool = False,
) -> Command:
    """What a command asks for; raises for the first impossible run.

    A teacher that has still to be made is no hindrance to a plan. A command that is only shown, by
    `--cfg`, may hold what a run would not read.
    """
    from kdwatts.planning.feasibility import unmade_teacher

    source = source or ConfigFile()
    check_words(overrides)
    _check_local(overrides, source)
    gpus = list_gpus()
    swept, multirun, asked = _swept_by_option(overrides, multirun=multirun, source=source)
    if not is_shown:
        check_kind(overrides, asked, is_sweep=multirun)
    runs = expand([*swept, *overrides], multirun=multirun)
    jobs = [compose(run, source=source, is_swept=len(runs) > 1) for run in runs]
    if multirun and guards.goes_to_slurm(asked):
        guards.check_one_launcher(asked, jobs)
        guards.note_submission()
    configs = [to_config(resolve_gpu(job, gpus)) for job in jobs]
    if not is_shown:
        check_effects([*swept, *overrides], configs)
    for config in configs:
        data = config.data
        for text in [data.source] if data.source else [part.source for part in data.sources]:
            check_there(text.path)
        missing = unmade_teacher(config.model)
        if missing and config.until != "plan":
            raise ValueError(f"model={config.model.name}: {missing}")
    return Command(configs, multirun, asked)


def preflight(overrides: Sequence[str], *, multirun: bool) -> list[Config]:
    """The configuration of every run a command asks for; raises for the first impossible one."""
    return command_of(overrides, multirun=multirun).configs
