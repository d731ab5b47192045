"""What is printed last when a command went well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.cli.closing import closing_words
from kdwatts.records.files import write_json

FOUND = {
    "schema": 1,
    "own_energy_j": 1500.0,
    "own_energy_quality": "measured",
    "inherited_energy_j": None,
    "inherited_energy_quality": "missing",
    "om_perf": None,
}


def test_a_run_ends_with_its_folder_its_energy_and_the_command_for_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my runs" / "one"
    folder.mkdir(parents=True)
    assert closing_words(folder) == "done: my runs/one"
    write_json(folder / "metrics.json", FOUND)
    lines = [
        "done: my runs/one",
        "energy: 1.5 kJ to train the student, energy that was not measured for what it was made "
        "from",
        "report: python -m multirun_analysis 'my runs/one'",
    ]
    assert closing_words(folder).splitlines() == lines
    write_json(folder / "metrics.json", FOUND | {"om_perf": 0.341})
    quality = "quality: OM_perf 0.34, the student's scores as a share of the teacher's"
    assert closing_words(folder).splitlines() == [*lines[:2], quality, lines[2]]


def test_a_run_and_a_sweep_print_lines_of_stages_and_where_to_look_next(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kdwatts: Callable[..., Any],
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    words = ("training=smoke", "gpu=cpu", "until=distill", "paradigm=sft", "store_dir=store")
    assert kdwatts(*words, "hydra.run.dir=run") == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    *_, done, energy, report = output.splitlines()
    assert (done, report) == ("done: run", "report: python -m multirun_analysis run")
    assert energy.startswith("energy: ") and "to train the student" in energy
    assert "  distill: built, " in output and "[INFO]" not in output
    assert "[kdwatts.pipeline][INFO] - distill: built, " in Path("run/kdwatts.log").read_text()

    assert kdwatts("-m", *words, "training.seed=0,1", "hydra.sweep.dir=sweep") == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert output.splitlines()[-4:] == [
        "done       sweep/0-sft-tiny",
        "done       sweep/1-sft-tiny",
        "2 runs: 2 done",
        "report: python -m multirun_analysis sweep",
    ]
