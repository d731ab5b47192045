"""The page on the doctor names every verdict of a real examination, and none twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from kdwatts.doctor.chapters import all_chapters
from kdwatts.records.doctor_record import read_record
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/how_to/check_a_machine.md").read_text("utf-8")
TABLE = PAGE.partition("## What it looks at")[2].partition("\n## ")[0]
NAMED = set(re.findall(r"`([a-z_0-9]+)`", TABLE))


def test_the_page_has_every_chapter():
    chapters = re.findall(r"^\| ([A-Z]\w+) \|", TABLE, re.MULTILINE)
    assert [chapter.lower() for chapter in chapters] == list(all_chapters())


@pytest.mark.slow
@pytest.mark.parametrize("place", ["this machine", "the replaying NVML library"])
def test_the_page_names_every_verdict_and_each_has_a_name_of_its_own(
    place: str, nvml_dir: Path, tmp_path: Path
):
    command = [sys.executable, "-m", "kdwatts.doctor", "--minutes=1", f"--out={tmp_path}"]
    library = {} if place == "this machine" else {"LD_LIBRARY_PATH": str(nvml_dir)}
    ended = subprocess.run(
        [*command, "--model=tiny", f"store_dir={tmp_path}/store"],
        cwd=tmp_path,
        env=os.environ | library,
        text=True,
        capture_output=True,
    )
    assert ended.returncode in (0, 1) and "Traceback" not in ended.stderr, ended.stderr
    names = [one.name for one in read_record(tmp_path / "doctor.json").verdicts]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    # The second of two would have a number.
    unnamed = [name for name in names if name not in NAMED and not name.startswith("plan_")]
    # A check for which no time was left has the name of the check.
    assert [name for name in unnamed if not name.startswith("check_of_")] == []
