"""The script for a borrowed GPU, rehearsed where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import tables

FOLDER = Path(__file__).parent

WINDOW = {
    "load": "square",
    "period_s": 1.0,
    "duration_s": 10.02,
    "energy_j": 4321.4,
    "power_w": 431.3,
    "difference_pct": -0.52,
    "method": "nvml_counter",
}


def test_a_window_of_the_counter_is_a_row_of_the_table_and_a_missing_figure_an_empty_cell():
    idle = WINDOW | {"load": "idle", "period_s": None, "energy_j": None, "difference_pct": None}
    assert tables.counter_table({"windows": [WINDOW, idle]}).splitlines()[2:] == [
        "| square, 1.0 s | 10 | 4,321 | 431 | -0.52 | nvml_counter |",
        "| idle | 10 |  | 431 |  | nvml_counter |",
    ]


def test_a_head_that_failed_is_named_with_its_error():
    heads = {"ours": {"median_ms": 12.5, "least_ms": 12.0, "peak_over_base_gib": 1.25}}
    rows = tables.head_table({"heads": heads | {"liger": {"error": "OutOfMemoryError: no"}}})
    assert rows.splitlines()[2:] == [
        "| ours | 12.5 | 12 | 1.25 |",
        "| liger | OutOfMemoryError: no |  |  |",
    ]


def rehearse(out: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [str(FOLDER / "run.sh"), *words, "--rehearse", str(out)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path: Path):
    told = rehearse(tmp_path / "out", "--minutes", "0", "--parts", "facts counter")
    assert "counter was left out, 0 s were left" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log.txt"]


@pytest.mark.slow
def test_a_rehearsal_leaves_at_most_eight_files_with_every_part(tmp_path: Path):
    told = rehearse(tmp_path, "--parts", "facts head cached online")
    assert told.count("status 0") == 4, (tmp_path / "log.txt").read_text()
    assert len(list(tmp_path.iterdir())) <= 8
    steps = json.loads((tmp_path / "steps.json").read_text())
    # The teacher's forward pass is counted where it runs.
    assert steps["online"]["tflop_a_step"] > steps["cached"]["tflop_a_step"]
    heads = json.loads((tmp_path / "head.json").read_text())["heads"]
    for term in ("jsd", "forward_kl"):
        ours = heads[f"ours {term}, chunks of 1024"]["loss"]
        assert ours == pytest.approx(heads[f"dense {term}"]["loss"], rel=1e-3)
