"""What is refused of jobs: two kinds of GPU in a sweep, changed sources, two runs on one GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdwatts.cli import guards
from kdwatts.cli.preflight import preflight
from kdwatts.runtime import paths

REPOSITORY = Path(__file__).parents[2]
SLURM = "hydra/launcher=slurm"


@pytest.fixture
def no_word(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No submission is known, neither before the test nor after it."""
    monkeypatch.setenv(guards.SUBMITTED, "")
    monkeypatch.delenv(guards.SUBMITTED)
    yield
    os.environ.pop(guards.SUBMITTED, None)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of conf/ and of some of the package, which guards now look at."""
    shutil.copytree(paths.conf_dir(), tmp_path / "conf")
    (tmp_path / "kdwatts" / "artifacts").mkdir(parents=True)
    for name in ("pipeline.py", "artifacts/store.py"):
        shutil.copy2(paths.PACKAGE_DIR / name, tmp_path / "kdwatts" / name)
    monkeypatch.setattr(guards, "PACKAGE_DIR", tmp_path / "kdwatts")
    monkeypatch.setattr(guards, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path


def submitted() -> dict[str, str]:
    guards.note_submission()
    return dict(os.environ)


def test_sweeping_the_gpu_on_slurm_is_refused_with_what_was_asked(no_word: None):
    with pytest.raises(ValueError) as refusal:
        preflight([SLURM, "gpu=h100,a100_80"], multirun=True)
    assert str(refusal.value) == (
        "gpu is swept over a100_80, h100 with hydra/launcher=slurm, and a job array has one "
        "partition and one kind of GPU; send one sweep for each gpu"
    )
    assert guards.SUBMITTED not in os.environ


def test_a_part_of_a_gpu_s_option_that_names_the_partition_is_refused_too(no_word: None):
    with pytest.raises(ValueError, match=r"^gpu is swept over h100 with hydra/launcher=slurm"):
        preflight([SLURM, "gpu=h100", "gpu.partition=a,b"], multirun=True)


def test_sweeping_the_gpu_is_no_matter_without_slurm(no_word: None):
    configs = preflight(["gpu=h100,a100_80", "paradigm=sft"], multirun=True)
    assert [config.gpu.name for config in configs] == ["h100", "a100_80"]
    assert guards.SUBMITTED not in os.environ


def test_a_sweep_for_one_gpu_goes_to_slurm_and_tells_its_jobs_what_the_sources_are(no_word: None):
    configs = preflight([SLURM, "gpu=h100", "paradigm=sft,response"], multirun=True)
    assert len(configs) == 2
    assert os.environ[guards.SUBMITTED]
    guards.check_unchanged()


def test_sources_as_they_were_pass_and_a_process_that_nobody_sent_is_not_asked(
    sources: Path, no_word: None
):
    guards.check_unchanged({})
    told = submitted()
    guards.check_unchanged(told)
    # Read again, written again alike, or compiled: none of it changes what runs.
    (sources / "kdwatts" / "pipeline.py").touch()
    (sources / "kdwatts" / "__pycache__").mkdir()
    (sources / "kdwatts" / "__pycache__" / "pipeline.cpython-311.pyc").write_bytes(b"0")
    guards.check_unchanged(told)


@pytest.mark.parametrize("name", ["conf/paradigm/response.yaml", "kdwatts/artifacts/store.py"])
def test_a_changed_file_is_named(name: str, sources: Path, no_word: None):
    told = submitted()
    with (sources / name).open("a") as file:
        file.write("# changed\n")
    with pytest.raises(ValueError) as refusal:
        guards.check_unchanged(told)
    assert str(refusal.value) == (
        f"conf/ or kdwatts/ was changed ({name}) after this job was submitted, and its sweep would "
        "mix two versions; restore what was there, or submit the same command again with "
        "hydra.sweep.dir of its folder"
    )


def test_a_removed_and_an_added_file_are_changes_too(sources: Path, no_word: None):
    told = submitted()
    (sources / "conf" / "paradigm" / "sft.yaml").rename(sources / "kept")
    with pytest.raises(ValueError, match="was changed after this job was submitted"):
        guards.check_unchanged(told)
    (sources / "kept").rename(sources / "conf" / "paradigm" / "sft.yaml")
    guards.check_unchanged(told)
    (sources / "conf" / "local").mkdir(exist_ok=True)
    (sources / "conf" / "local" / "new.yaml").write_text("# new\n")
    with pytest.raises(ValueError, match=r"changed \(conf/local/new.yaml\)"):
        guards.check_unchanged(told)


def test_a_job_that_starts_on_changed_sources_fails_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(guards.SUBMITTED, "0123456789abcdef 4102444800000000000")
    command = ["-m", "kdwatts", "training=smoke", "gpu=cpu", f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, *command, f"store_dir={tmp_path}/store"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "kdwatts: conf/ or kdwatts/ was changed after this job was submitted" in done.stderr
    assert '"failed"' in (tmp_path / "run" / "status.json").read_text()
    assert not (tmp_path / "store").exists()
