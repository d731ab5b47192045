"""The commands of the how-to pages and of the questions: they compose, and the quick ones run."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from docs.generate.class_fields import classes_in
from kdwatts.cli import flags, guards
from kdwatts.cli.preflight import command_of
from kdwatts.config.checks import check
from kdwatts.config.experiment import STAGES, Config
from kdwatts.serving.client.outcomes import FAILURES
from kdwatts.serving.serving_options import parser, settings_of
from multirun_analysis.report.page import PROFILES, report_name
from multirun_analysis.statistics.choice import VERDICTS
from tests.docs.pages import ROOT, blocks

PAGES = [*sorted((ROOT / "docs/how_to").glob("*.md")), ROOT / "docs/faq.md"]


class Command(NamedTuple):
    page: Path
    line: str
    is_run: bool
    """Whether the page says nothing against it."""


def _commands() -> Iterator[Command]:
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            for line in block.commands if block.language == "bash" else []:
                yield Command(page, line, not block.mark)


COMMANDS = list(_commands())
KDWATTS = " -m kdwatts "


def commands(start: str, page: str | None = None) -> list[Command]:
    return [c for c in COMMANDS if c.line.startswith(start) and page in (None, c.page.stem)]


def ids(found: list[Command]) -> list[str]:
    return [f"{c.page.stem}: {c.line}" for c in found]


def section(page: str, title: str) -> str:
    """What stands below a heading of a page, up to the next one of its level."""
    text = (ROOT / page).read_text("utf-8")
    level = re.match("#+", title)
    assert level
    return text.partition(f"\n{title}\n")[2].partition(f"\n{level[0]} ")[0]


def write_files(page: Path, folder: Path) -> None:
    """The files that a page has its reader write, and texts and models that it speaks of."""
    texts = [block.text for block in blocks(page.read_text("utf-8"))]
    for text in texts:
        # Hydra reads a file's package off its first line alone.
        if name := re.match(r"(?:# @package \w+\n)?# ([\w./-]+\.yaml)\n", text):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "runs/models/smollm2-135m-instruct").mkdir(parents=True, exist_ok=True)
    words = ["sun", "moon", "star", "river", "stone", "tree", "wind", "cloud", "bird", "song"]
    rows = [
        {"id": str(n), "text": " ".join(words[n * k % 10] for k in range(1, 150))}
        for n in range(1, 300)
    ]
    lines = "\n".join(map(json.dumps, rows))
    for name in ("texts/a.jsonl", "texts/b.jsonl", "texts/ünï=1.jsonl", "answers.jsonl"):
        (folder / name).write_text(lines, "utf-8")
    if page.stem == "ask_benchmarks":
        (question,) = [text for text in texts if text.startswith('{"question"')]
        (folder / "my_tasks/capitals.jsonl").write_text(question * 4, "utf-8")


def composed(line: str) -> list[Config]:
    arguments = flags.parse(shlex.split(line))
    command = command_of(
        arguments.overrides,
        multirun=arguments.multirun,
        source=flags.config_file(arguments),
        is_shown=bool(arguments.cfg),
    )
    return command.configs


@pytest.fixture
def no_word() -> Iterator[None]:
    """Composing for Slurm leaves word for jobs, of which this process has none."""
    yield
    os.environ.pop(guards.SUBMITTED, None)


def run(command: str, *more: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    python, *words = shlex.split(command)
    assert python == "python"
    return subprocess.run([sys.executable, *words, *more], cwd=cwd, capture_output=True, text=True)


RUNS = commands("python -m kdwatts ")


@pytest.mark.parametrize("command", RUNS, ids=ids(RUNS))
def test_a_command_of_a_page_composes_with_the_files_that_the_page_shows(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_word: None
):
    write_files(command.page, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert composed(command.line.removeprefix("python -m kdwatts "))


LAUNCHES = [c for c in COMMANDS if c.line.startswith(("torchrun ", "srun ")) and KDWATTS in c.line]


@pytest.mark.parametrize("command", LAUNCHES, ids=ids(LAUNCHES))
def test_a_launch_composes_and_shares_a_step_among_its_ranks(command: Command):
    launcher, _, line = command.line.partition(KDWATTS)
    sizes = r"--(?:nnodes|nproc-per-node|nodes|ntasks-per-node)[= ](\d+)"
    counts = [int(count) for count in re.findall(sizes, launcher)]
    assert counts, "the page leaves the number of processes to the machine"
    for config in composed(line):
        check(config, ranks=math.prod(counts))


@pytest.mark.slow
def test_the_launch_of_two_ranks_that_a_page_has_its_reader_run_runs(tmp_path: Path):
    (command,) = [c for c in LAUNCHES if c.is_run]
    line = command.line.replace("torchrun", "python -m torch.distributed.run", 1)
    done = run(line, "telemetry.idle_s=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("runs/*/*/manifest.json")
    assert json.loads(manifest.read_text("utf-8"))["launch"] == {"nodes": 1, "ranks": 2}


@functools.cache
def help_of(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OTHERS = [
    *commands("python -m multirun_analysis"),
    *commands("python -m kdwatts.telemetry"),
    *commands("python -m kdwatts.serving"),
    *commands("python -m kdwatts.traffic"),
]


@pytest.mark.parametrize("command", OTHERS, ids=ids(OTHERS))
def test_the_options_of_other_command_lines_exist(command: Command):
    words = shlex.split(command.line.partition(" -- ")[0])[1:]
    program = words[: 3 if words[2:] and words[2] in ("import", "status", "choose") else 2]
    options = [word.partition("=")[0] for word in words[len(program) :] if word.startswith("--")]
    shown = re.findall(r"--[\w-]+", help_of(*program))
    assert set(options) <= set(shown)


def test_the_make_targets_of_the_pages_exist():
    for command in commands("make "):
        done = subprocess.run(
            [*command.line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_pages_name_every_stage_profile_and_verdict_and_only_those():
    stages = re.findall(
        r"^\| `(\w+)` \|", section("docs/how_to/configure.md", "## Stop early"), re.M
    )
    assert stages == list(STAGES)
    profiles = section("docs/how_to/make_reports.md", "## Choose the reader")
    listed = re.findall(r"^\| `(\w+)` \| `(report\w*\.html)` \|", profiles, re.M)
    assert dict(listed) == {profile: report_name(profile) for profile in PROFILES}
    verdicts = section("docs/how_to/choose_what_to_serve.md", "## The verdicts")
    assert re.findall(r"^\| `([\w ]+)` \|", verdicts, re.M) == list(VERDICTS)


def test_the_page_on_serving_names_every_kind_of_failure_and_verdict_and_only_those():
    failures = section("docs/how_to/measure_serving.md", "## If something goes wrong")
    assert re.findall(r"^\| `(\w+)` \|", failures, re.M) == list(FAILURES)
    verdicts = section("docs/how_to/measure_serving.md", "## The verdicts")
    classes = classes_in("kdwatts/records/serving_record.py")
    stated = " ".join(
        field.words or ""
        for name in ("ServingPoint", "Capacity")
        for field in classes[name].fields
        if field.name == "verdict"
    )
    listed = re.findall(r"^\| `(\w+)` \|", verdicts, re.M)
    assert len(listed) == 9
    assert [word for word in listed if not re.search(rf"\b{word}\b", stated)] == []


def test_the_commands_on_serving_read_their_words_as_settings():
    found = commands("python -m kdwatts.serving")
    for command in found:
        words = shlex.split(command.line.partition("kdwatts.serving")[2])
        assert settings_of(parser().parse_args(words)).is_measured
    assert {"measure_serving", "size_a_service"} <= {command.page.stem for command in found}


def test_imported_records_are_analysed_and_chosen_from_as_the_pages_say(tmp_path: Path):
    imported, both = commands("python -m multirun_analysis", "import_records")
    (_, choice, _) = commands("python -m multirun_analysis choose", "choose_what_to_serve")
    (esg,) = commands("python -m multirun_analysis", "add_options")
    write_files(esg.page, tmp_path)
    for command in (imported, both, esg):
        # The import stands for the demo too, which takes minutes.
        line = command.line.replace("multirun/demo", "multirun/h100_runs")
        line = line.replace("my_conf/", f"{tmp_path}/my_conf/")
        done = run(line.replace("multirun/", f"{tmp_path}/"))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "both/report.html").stat().st_size > 1_000_000
    page = (tmp_path / "h100_runs/analysis/report_esg.html").read_text("utf-8")
    assert "our supplier&#39;s statement of 2026-03-01" in page
    done = run(choice.line.replace("multirun/demo", f"{tmp_path}/h100_runs"), "--json")
    assert json.loads(done.stdout)["verdict"] in VERDICTS
    assert done.returncode in (0, 1)


def test_the_meter_measures_a_command_and_stands_beside_a_job(tmp_path: Path):
    *_, of_command, beside = [c.line for c in commands("python -m kdwatts.telemetry", "watch_runs")]
    options, _, command = of_command.partition(" -- ")
    done = run(f"{options} --out {tmp_path}/command -- {command}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "command/summary.json").is_file()
    words = shlex.split(beside.replace("runs/", f"{tmp_path}/"))
    process = subprocess.Popen([sys.executable, *words[1:]], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "beside/telemetry.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.terminate()
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "beside/summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["add_options", "ask_benchmarks", "prepare_data", "faq"])
def test_what_a_page_has_its_reader_run_runs_in_any_folder(stem: str, tmp_path: Path):
    found = [c for c in commands("python -m kdwatts ", stem) if c.is_run]
    assert found
    write_files(found[0].page, tmp_path)
    for command in found:
        done = run(command.line, "telemetry.idle_s=0", cwd=tmp_path)
        assert done.returncode == 0, (command.line, done.stderr)
