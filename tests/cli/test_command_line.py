"""Commands that are answered or refused before anything heavy is imported or written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.cli.attempt import run_in
from kdwatts.cli.command_line import main
from kdwatts.cli.preflight import compose, expand, preflight
from kdwatts.cli.run_folders import settings_of_first_start
from kdwatts.runtime.paths import conf_dir
from tests.cli.commands_in_one_process import ASK

PARADIGMS = ", ".join(sorted(path.stem for path in (conf_dir() / "paradigm").glob("*.yaml")))
NO_TORCH = """
import kdwatts.cli.attempt, kdwatts.cli.preflight
assert "torch" not in sys.modules
"""


def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_help_a_printed_configuration_and_a_refusal_import_no_torch_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _environment(monkeypatch)
    commands = [["--help"], ["--cfg", "job", "training=smoke"], ["gpu=h1000"]]
    done = subprocess.run(
        [sys.executable, "-c", ASK + NO_TORCH, json.dumps(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    told, printed, refused = json.loads(done.stdout)
    assert told[0] == 0 and f"paradigm: {PARADIGMS}" in told[1]
    assert printed[0] == 0 and "target_tokens: 8192" in printed[1]
    assert refused[:2] == [2, ""] and refused[2].startswith("kdwatts: gpu=h1000 is unknown; ")
    assert list(tmp_path.iterdir()) == []


def test_the_module_ends_with_status_2_and_one_line_for_a_refused_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _environment(monkeypatch)
    command = [sys.executable, "-W", "error", "-m", "kdwatts", "training.sequence_length=4096"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kdwatts: training.sequence_length=4096 is longer than the stu")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command that must be refused; what it says."""
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kdwatts", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert list(tmp_path.iterdir()) == []
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    return refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["training.sed=1"], "training.sed is unknown; did you mean seed? training has seed,"),
        (["model=tiny_teacher"], "paradigm=response needs a teacher, model=tiny_teacher has none;"),
        (["training.seed=abc"], "training.seed: value 'abc' of type 'str' could not be converted"),
        (["until=finish"], "until=finish is unknown; choose one of prefetch, plan, shards,"),
        (
            ["-m", "training.seed=0,1", "paradigm=response,nope"],
            f"paradigm=nope is unknown; choose one of {PARADIGMS}",
        ),
        (
            ["-m", "paradigm.response.temperature=1,2,0"],
            "paradigm.response.temperature=0.0 is out of range; give a number above 0",
        ),
        (["--cfgg", "job"], "--cfgg is no flag of kdwatts; did you mean --cfg? `python -m kdwatts"),
        (["--cfg", "jobs"], "--cfg: invalid choice: 'jobs' (choose from 'job', 'hydra', 'all'); `"),
        (["--config-name=nope"], "--config-name=nope needs a file nope.yaml, and there is none in"),
        (["--config-dir=/nope"], "--config-dir=/nope names no folder; give a folder that is there"),
        (["--config-path=/nope"], "--config-path=/nope names no folder; give a folder that is the"),
        (["--config-path=/"], "--config-path=/ needs a file config.yaml, and there is none in /;"),
        (
            ["-m", "hydra/launcher=nope"],
            "hydra/launcher=nope is unknown; choose one of basic, slur",
        ),
        (
            ["-m", "hydra/launcher=slurm", "cluster.partition=x", "cluster.nodes=0"],
            "cluster.nodes=0 is out of range; give",
        ),
        (
            ["-m", "hydra/launcher=slurm", "hydra.launcher.nope=1"],
            "hydra.launcher.nope is unknown among Hydra's settings of this command; --cfg hydra",
        ),
        (["-m", "hydra.mode=RUN"], "-m begins a sweep and hydra.mode=RUN a single run; leave one"),
    ],
)
def test_an_impossible_command_is_refused_before_its_first_run_starts(
    arguments: list[str], said: str, ask: Callable[..., str]
):
    text = ask(*arguments)
    assert text.startswith(f"kdwatts: {said}")
    assert text.count("\n") == 1


def test_a_sweep_is_the_product_of_its_choices_in_the_order_they_were_given():
    overrides = ["paradigm=sft,response", "training.seed=range(2)", "gpu=cpu"]
    assert expand(overrides, multirun=True) == [
        ["paradigm=sft", "training.seed=0", "gpu=cpu"],
        ["paradigm=sft", "training.seed=1", "gpu=cpu"],
        ["paradigm=response", "training.seed=0", "gpu=cpu"],
        ["paradigm=response", "training.seed=1", "gpu=cpu"],
    ]
    assert expand(overrides, multirun=False) == [overrides]
    again = ["paradigm=sft,response", "gpu=cpu", "paradigm=feature"]
    assert expand(again, multirun=True) == [["paradigm=feature", "gpu=cpu"]]


def test_the_sweep_of_an_experiment_is_expanded_and_checked_like_one_on_the_command_line():
    configs = preflight(["experiment=paradigm_grid", "gpu=cpu"], multirun=True)
    grid = [(config.paradigm.name, config.training.seed) for config in configs]
    paradigms = ("sft", "response", "feature", "relational", "combined")
    assert grid == [(paradigm, seed) for paradigm in paradigms for seed in (0, 1, 2)]


def test_overrides_may_stand_on_both_sides_of_a_flag_and_a_null_part_is_refused_in_a_sentence(
    tmp_path: Path, kdwatts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    words = ["until=plan", "-m", "gpu=cpu", f"store_dir={tmp_path}"]
    assert kdwatts(*words, "training.seed=0,1") == 0
    assert capsys.readouterr().out.count("stages:") == 2
    assert kdwatts(*words, "paradigm.feature.weight=1") == 2
    refusal = capsys.readouterr().err
    assert refusal.startswith("kdwatts: paradigm.feature.weight=1 sets a key of paradigm")


def test_a_later_start_goes_on_by_the_first_s_settings_and_lies_where_it_is_asked_to_lie_now(
    tmp_path: Path,
):
    words = ["training.seed=1", "store_dir=/first", "cluster.partition=a"]
    assert settings_of_first_start(tmp_path, compose(words), words).store_dir == "/first"
    words = ["training.seed=1", "store_dir=/second", "cluster.partition=b"]
    tree = settings_of_first_start(tmp_path, compose(words), words)
    assert (tree.store_dir, tree.cluster.partition, tree.training.seed) == ("/second", "b", 1)
    # A command that names the folder alone asks for no other place.
    tree = settings_of_first_start(tmp_path, compose([]), [])
    assert (tree.store_dir, tree.cluster.partition, tree.training.seed) == ("/first", "a", 1)


def test_a_run_goes_further_than_it_was_to_at_first_and_never_less_far(tmp_path: Path):
    words = ["until=distill"]
    assert settings_of_first_start(tmp_path, compose(words), words).until == "distill"
    assert settings_of_first_start(tmp_path, compose([]), []).until == "distill"
    words = ["training.seed=0"]
    assert settings_of_first_start(tmp_path, compose(words), words).until == "serving"
    assert settings_of_first_start(tmp_path, compose([]), []).until == "serving"
    words = ["until=distill"]
    assert settings_of_first_start(tmp_path, compose(words), words).until == "serving"


def test_what_is_answered_without_a_run_makes_none_by_another_way_either(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^until=plan begins no run"):
        run_in(tmp_path / "run", compose(["until=plan", "gpu=cpu", f"store_dir={tmp_path}/store"]))
    assert not (tmp_path / "store").exists()
