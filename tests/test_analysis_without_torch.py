"""The analysis runs where torch is not, with the packages that the page on installing names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.installed import ROOT, build, environment, install, only, run

PAGE = (ROOT / "docs" / "how_to" / "install.md").read_text("utf-8")
(NAMED,) = re.findall(r"pip install (.+) && pip install --no-deps kdwatts", PAGE)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    python = environment(folder / "env", only(NAMED.split(), folder / "packages"))
    install(python, build("wheel", folder / "wheel"))
    return python


def test_the_environment_has_no_torch_and_no_hydra(python: Path, tmp_path: Path):
    for name in ("torch", "transformers", "hydra", "omegaconf", "pynvml", "psutil"):
        done = run(python, tmp_path, "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr


def test_records_are_imported_and_analysed_there(python: Path, tmp_path: Path):
    command = ("-m", "multirun_analysis")
    records = str(ROOT / "tests" / "h100_runs")
    done = run(python, tmp_path, *command, "import", records, "--out", "runs")
    assert done.returncode == 0, done.stderr
    done = run(python, tmp_path, *command, "runs", "--site", "france")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "analysis" / "report.html").stat().st_size > 1_000_000
    done = run(python, tmp_path, *command, "status", "runs")
    assert "3 runs: 3 done" in done.stdout, done.stdout + done.stderr
    done = run(python, tmp_path, *command, "choose", "runs", "--tokens-per-day", "1e9")
    assert "Traceback" not in done.stderr and done.stdout


def test_the_runner_says_there_what_it_lacks(python: Path, tmp_path: Path):
    for command in ("kdwatts", "kdwatts.telemetry"):
        done = run(python, tmp_path, "-m", command)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1 and "run `pip install kdwatts`" in done.stderr
