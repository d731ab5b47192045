"""The page of the first sweep on Slurm shows commands that compose, and keys that exist."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator

import pytest

from kdwatts.cli import flags, guards
from kdwatts.cli.preflight import preflight
from kdwatts.config.experiment import Config
from kdwatts.config.machine import Cluster
from kdwatts.planning.fits import check_memory
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs/tutorials/first_sweep_on_slurm.md").read_text()
COMMANDS = [
    command.removeprefix("python -m kdwatts ")
    for block in blocks(PAGE)
    if block.language == "bash"
    for command in block.commands
    if command.startswith("python -m kdwatts ")
]


def composed(command: str) -> list[Config]:
    arguments = flags.parse(shlex.split(command))
    return preflight(arguments.overrides, multirun=arguments.multirun)


@pytest.fixture
def no_word(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Composing for Slurm leaves word for jobs, of which this process has none."""
    yield
    os.environ.pop(guards.SUBMITTED, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_composes_and_its_runs_fit_their_gpu(command: str, no_word: None):
    for config in composed(command):
        assert config.gpu.name == "h100"
        check_memory(config)


def test_the_page_has_its_commands_and_the_array_that_it_speaks_of(no_word: None):
    assert len(COMMANDS) == 7
    assert "one array of twelve jobs" in PAGE
    sweep = [command for command in COMMANDS if "training.seed=0,1,2" in command]
    assert len(composed(sweep[0])) == 12


def test_the_page_names_every_key_of_the_section_cluster_and_only_those():
    named = set(re.findall(r"`cluster\.(\w+)`", PAGE))
    assert named == {field.name for field in dataclasses.fields(Cluster)}


def test_the_readme_leads_to_the_page():
    assert "(docs/tutorials/first_sweep_on_slurm.md)" in (ROOT / "README.md").read_text()
