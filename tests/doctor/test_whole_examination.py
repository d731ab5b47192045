"""All chapters as a user runs them: each verdict has a name of its own, and no check fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cpu", "replay"])
def test_no_two_verdicts_of_all_chapters_have_one_name(place: str, nvml_dir: Path, tmp_path: Path):
    given = [f"--out={tmp_path}", f"store_dir={tmp_path / 'store'}", "--model=tiny", "--minutes=2"]
    library = {"LD_LIBRARY_PATH": str(nvml_dir)} if place == "replay" else {}
    done = subprocess.run(
        [sys.executable, "-m", "kdwatts.doctor", *given],
        cwd=REPOSITORY,
        env=os.environ | library,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    verdicts = json.loads((tmp_path / "doctor.json").read_text())["verdicts"]
    assert {one["chapter"] for one in verdicts} == {
        "surroundings",
        "instruments",
        "speed",
        "numbers",
    }
    names = [one["name"] for one in verdicts]
    assert len(set(names)) == len(names)
    # What the second of two gets.
    assert [name for name in names if re.search(r"_\d+$", name)] == []
    assert [one for one in verdicts if "the check failed" in one["found"]] == []
