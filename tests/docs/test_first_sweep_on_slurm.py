"""The page of the first sweep on Slurm shows commands that compose, and keys that exist."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdwatts.cli import guards
from kdwatts.cli.preflight import preflight
from kdwatts.config.machine import Cluster
from kdwatts.planning.fits import check_memory

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tutorials/first_sweep_on_slurm.md").read_text()
COMMANDS = re.findall(r"^python -m kdwatts (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def no_word(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Composing for Slurm leaves word for jobs, of which this process has none."""
    yield
    os.environ.pop(guards.SUBMITTED, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_composes_and_its_runs_fit_their_gpu(command: str, no_word: None):
    words = shlex.split(command)
    # Hydra's own words are for its launcher.
    overrides = [w for w in words if w != "-m" and not w.startswith("hydra.")]
    configs = preflight(overrides, multirun="-m" in words)
    for config in configs:
        assert config.gpu.name == "h100"
        check_memory(config)


def test_the_page_has_its_commands_and_the_array_that_it_speaks_of(no_word: None):
    assert len(COMMANDS) == 7
    assert "one array of twelve jobs" in PAGE
    sweep = [command for command in COMMANDS if "training.seed=0,1,2" in command]
    words = [word for word in shlex.split(sweep[0]) if word != "-m"]
    assert len(preflight(words, multirun=True)) == 12


def test_the_page_names_every_key_of_the_section_cluster_and_only_those():
    named = set(re.findall(r"`cluster\.(\w+)`", PAGE))
    assert named == {field.name for field in dataclasses.fields(Cluster)}


def test_the_readme_leads_to_the_page():
    assert "(docs/tutorials/first_sweep_on_slurm.md)" in (ROOT / "README.md").read_text()
