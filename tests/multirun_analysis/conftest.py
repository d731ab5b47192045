"""Folders that several tests read, and the writers of more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import Collected, collect
from tests.multirun_analysis.foreign_records import H100_RUNS, harness_results, write_foreign
from tests.multirun_analysis.written_nodes import write_nodes_run
from tests.multirun_analysis.written_runs import (
    METRICS,
    append_all,
    stage_row,
    status,
    write_at_chance,
    write_run,
    write_scored,
    write_seeds,
    write_serving,
    write_sweep,
)


@pytest.fixture(scope="session")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), seeds=2)


@pytest.fixture(scope="session")
def at_chance_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_at_chance(tmp_path_factory.mktemp("at_chance"))


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Writers of run folders, and of their parts."""
    return SimpleNamespace(
        run=write_run,
        seeds=write_seeds,
        scored=write_scored,
        serving=write_serving,
        stage=stage_row,
        status=status,
        append=append_all,
        metrics=METRICS,
    )


@pytest.fixture
def run_in(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder of the given name below `tmp_path`."""

    def write(name: str = "0-response-tiny", **changes: Any) -> Path:
        return write_run(tmp_path / name, **changes)

    return write


@pytest.fixture(scope="session")
def foreign() -> SimpleNamespace:
    """Writers of foreign records, and real ones of four H100 GPUs."""
    return SimpleNamespace(run=write_foreign, results=harness_results, h100_dir=H100_RUNS)


@pytest.fixture(scope="session")
def imported_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three real runs as folders of ours."""
    out_dir = tmp_path_factory.mktemp("imported")
    assert main(["import", str(H100_RUNS), "--out", str(out_dir)]) == 0
    return out_dir


@pytest.fixture(scope="session")
def sweep(sweep_dir: Path) -> Collected:
    """The tables of that sweep, which no test changes."""
    return collect([sweep_dir])


@pytest.fixture(scope="session")
def nodes_sweep(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    """The tables of a run on two nodes and of one on one, which no test changes."""
    runs = tmp_path_factory.mktemp("nodes")
    write_nodes_run(runs / "0-response-tiny")
    write_nodes_run(runs / "1-sft-tiny", num_nodes=1, paradigm="sft", student_key="student-1")
    return collect([runs])
