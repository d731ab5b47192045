"""How a command that cannot go on says so: one sentence on stderr, and nothing of Hydra's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("training=smoke", "gpu=cpu", "until=distill", "paradigm=response")
NO_TEACHER = "model.teacher.path=/nowhere/model"
REFUSAL = (
    "kdwatts: model: the folder /nowhere/model does not exist; check the path, or give a hub id\n"
)

FAULTY = """
import sys
import kdwatts.pipeline
from kdwatts.cli import main

def execute(run, nodes):
    raise KeyError("rows")

kdwatts.pipeline.execute = execute
sys.argv = ["kdwatts", *sys.argv[1:]]
main()
"""


def ask(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of Python's, in a folder that is no checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | variables
    return subprocess.run(
        [sys.executable, *words, *SMALL, f"store_dir={folder}/store"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_what_a_run_refuses_after_composing_is_one_sentence_alone(tmp_path: Path):
    done = ask(tmp_path, "-m", "kdwatts", NO_TEACHER)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", REFUSAL)


def test_who_asks_hydra_for_the_full_error_has_the_trace_before_the_sentence(tmp_path: Path):
    done = ask(tmp_path, "-m", "kdwatts", NO_TEACHER, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback ") and done.stderr.endswith(REFUSAL)


def test_a_fault_of_the_program_is_one_sentence_that_says_where_its_trace_is(tmp_path: Path):
    done = ask(tmp_path, "-c", FAULTY, "hydra.run.dir=run")
    assert done.returncode == 1
    assert done.stderr == (
        "kdwatts: the run stopped at a fault of the program (KeyError: 'rows'); its trace is in "
        f"{tmp_path}/run/traceback.txt, please report it\n"
    )
    trace = (tmp_path / "run" / "traceback.txt").read_text()
    assert trace.startswith("Traceback ") and trace.endswith("KeyError: 'rows'\n")


def test_each_run_of_a_sweep_that_is_refused_says_so_once_and_the_next_begins(
    tmp_path: Path, kdwatts: Callable[..., Any], capfd: pytest.CaptureFixture[str]
):
    folders = (f"hydra.sweep.dir={tmp_path}/sweep", f"store_dir={tmp_path}/store")
    assert kdwatts("-m", *SMALL, f"{NO_TEACHER},/nowhere/other", *folders) == 1
    output, errors = capfd.readouterr()
    assert errors == REFUSAL + REFUSAL.replace("/nowhere/model", "/nowhere/other")
    assert output.count("failed  ") == 2 and "2 runs: 2 failed" in output


def test_in_a_job_of_slurm_the_first_refusal_ends_the_job_with_its_exit_code(tmp_path: Path):
    job = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}
    done = ask(tmp_path, "-m", "kdwatts", "-m", f"{NO_TEACHER},/nowhere/other", **job)
    assert (done.returncode, done.stderr) == (1, REFUSAL)


def test_minus_m_without_a_sweep_says_that_it_is_one_run(
    tmp_path: Path, kdwatts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    assert kdwatts("-m", "until=plan", "gpu=cpu", f"store_dir={tmp_path}") == 0
    said = capsys.readouterr().err
    assert said.startswith("kdwatts: -m begins a sweep, and this command has one value for each")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n  ce: {", "paradigm/mine.yaml is no YAML: mapping values are not allowed here"),
        ("name: x\nnope: 3\n", "kdwatts: paradigm/mine.yaml: paradigm.nope is unknown; paradigm"),
        (
            "defaults: [nope]\n",
            "kdwatts: paradigm=nope, which the defaults list of a file names, is",
        ),
    ],
)
def test_a_broken_file_of_one_s_own_is_named_with_its_fault(
    text: str,
    said: str,
    tmp_path: Path,
    kdwatts: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "paradigm").mkdir()
    (tmp_path / "paradigm" / "mine.yaml").write_text(text)
    assert kdwatts("until=plan", f"--config-dir={tmp_path}", "paradigm=mine") == 2
    errors = capsys.readouterr().err
    assert said in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "kdwatts: training is chosen, and the file that the settings begin with lists no"),
        ("defaults: [mine]\n", "kdwatts: a defaults list names its own file, or two name each"),
        ("defaults: {config: null}\n", "kdwatts: mine.yaml: defaults must be a list (got mapping"),
        ("defaults: [config, training: tiny]\n", "kdwatts: training appears more than once in the"),
    ],
)
def test_a_file_to_begin_with_whose_defaults_list_is_wrong_is_refused_in_one_sentence(
    text: str,
    said: str,
    tmp_path: Path,
    kdwatts: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "mine.yaml").write_text(text)
    own = (f"--config-dir={tmp_path}", "--config-name=mine")
    assert kdwatts("until=plan", *own, "training=smoke") == 2
    errors = capsys.readouterr().err
    assert errors.startswith(said) and errors.count("\n") == 1


def test_a_command_that_begins_with_a_file_of_one_s_own_is_checked_and_planned_like_others(
    tmp_path: Path, kdwatts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\ntraining: {seed: 7}\n")
    own = (f"--config-dir={tmp_path}", "--config-name=mine", "gpu=cpu", f"store_dir={tmp_path}")
    assert kdwatts(*own, "until=plan") == 0
    assert "seed=7" in capsys.readouterr().out
    assert kdwatts(*own, "training.sed=7") == 2
    assert capsys.readouterr().err.startswith("kdwatts: training.sed is unknown; did you mean")
