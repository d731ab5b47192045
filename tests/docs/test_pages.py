"""What README and the tutorials tell a reader to type runs, and prints what they say it prints."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from kdwatts.cli import guards
from kdwatts.cli.preflight import command_of
from tests.docs.pages import ROOT, blocks, difference, run_page

TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", *TUTORIALS]
OF_A_TEST_OF_ITS_OWN = {"add_a_divergence.md"}
"""Its package must be installed: see test_add_a_divergence.py."""
QUICK = {"first_sweep_on_slurm.md", "meter_your_script.md"}


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def check(page: Path, folder: Path, **environment: str) -> None:
    """Run a page in a folder and compare what is printed."""
    for printed in run_page(page.read_text("utf-8"), folder, environment):
        if printed.expected is not None:
            said = difference(printed.expected, printed.text, folder)
            assert said is None, f"{page.name}, block at line {printed.block.line}: {said}"


@pytest.fixture(scope="session")
def first_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who has done the first tutorial."""
    folder = tmp_path_factory.mktemp("reader")
    check(ROOT / "docs/tutorials/first_sweep.md", folder)
    return folder


@pytest.mark.slow
def test_the_first_tutorial_prints_what_it_says(first_sweep: Path):
    assert (first_sweep / "first/multirun/demo/analysis/report.html").is_file()


@pytest.mark.slow
def test_the_readme_prints_what_it_says(first_sweep: Path, tmp_path: Path):
    # The store is that of the first tutorial, so that nothing is trained twice.
    check(ROOT / "README.md", tmp_path, KDWATTS_STORE=f"{first_sweep}/first/runs/store")


@pytest.mark.slow
def test_the_tutorial_on_the_report_prints_what_it_says(first_sweep: Path, tmp_path: Path):
    folder = tmp_path / "first"
    shutil.copytree(first_sweep / "first", folder, symlinks=True)
    check(ROOT / "docs/tutorials/read_the_report.md", folder)


OTHERS = [
    page
    for page in TUTORIALS
    if page.name not in {"first_sweep.md", "read_the_report.md", *OF_A_TEST_OF_ITS_OWN}
]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[] if page.name in QUICK else [pytest.mark.slow])
        for page in OTHERS
    ],
)
def test_a_tutorial_prints_what_it_says(page: Path, tmp_path: Path):
    folder = tmp_path / "reader"
    folder.mkdir()
    check(page, folder)


@pytest.fixture
def nothing_submitted() -> Iterator[None]:
    """Composing for Slurm leaves a note for jobs, of which this process has none."""
    yield
    os.environ.pop(guards.SUBMITTED, None)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_a_command_that_is_composed_only_composes(page: Path, nothing_submitted: None):
    for block in blocks(page.read_text("utf-8")):
        for command in block.commands if block.mark == "composed only" else []:
            _, is_ours, words = command.partition("python -m kdwatts ")
            if is_ours:
                asked = get_args_parser().parse_intermixed_args(shlex.split(words))
                assert command_of(asked.overrides, multirun=asked.multirun).configs


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_no_command_of_a_page_hides_in_a_block_that_is_not_run(page: Path):
    languages = {block.language for block in blocks(page.read_text("utf-8"))}
    assert not languages & {"sh", "shell", "console", "zsh"}


def test_every_make_target_that_a_page_names_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        target
        for page in pages
        for words in re.findall(r"`make ([a-z0-9 -]+)`", page.read_text("utf-8"))
        for target in words.split()
    }
    assert {"demo", "docs"} <= named
    done = subprocess.run(
        ["make", "--dry-run", *sorted(named)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_checkout_makes_the_sweep_of_the_first_tutorial():
    done = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    page = (ROOT / "docs/tutorials/first_sweep.md").read_text("utf-8")
    typed = {c for block in blocks(page) if block.language == "bash" for c in block.commands}
    made = {line.removeprefix(".venv/bin/") for line in done.stdout.splitlines() if " -m " in line}
    ours = {line for line in made if line.startswith(("python -m kdwatts", "python -m multirun"))}
    assert len(ours) == 2 and ours <= typed
