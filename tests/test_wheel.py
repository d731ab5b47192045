"""The wheel is complete: with conf/ and the tiny world in it, it works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out_dir)]
    private = ROOT / "conf" / "local" / f"of_a_test_{os.getpid()}.yaml"
    private.write_text("cluster: {account: nobody_s_business}\n")
    try:
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    finally:
        private.unlink()
    (wheel,) = out_dir.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out_dir / "site")
    return out_dir / "site"


def run(unpacked: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_it_composes_from_its_own_conf_in_another_folder(unpacked: Path, tmp_path: Path):
    where = run(
        unpacked, tmp_path, "-c", "from kdwatts.runtime.paths import conf_dir; print(conf_dir())"
    )
    assert where.stdout.strip() == str(unpacked / "kdwatts" / "conf")
    done = run(unpacked, tmp_path, "-m", "kdwatts", "--cfg", "job", "model=qwen25_7b_to_1b5")
    assert done.returncode == 0, done.stderr
    assert "Qwen/Qwen2.5-7B-Instruct" in done.stdout


def test_it_carries_the_tiny_world_and_no_tests(unpacked: Path, tmp_path: Path):
    done = run(unpacked, tmp_path, "-m", "kdwatts", "until=plan", "gpu=cpu")
    assert done.returncode == 0, done.stderr
    assert "inference_teacher" in done.stdout
    names = {path.name for path in unpacked.iterdir()}
    assert {"kdwatts", "multirun_analysis"} < names
    assert not names & {"tests", "conf", "docs"}


def test_it_carries_the_templates_the_style_and_the_script_of_the_report(unpacked: Path):
    report = Path("multirun_analysis", "report")
    kinds = ("*.j2", "*.css", "*.js")
    files = {path.relative_to(ROOT) for kind in kinds for path in (ROOT / report).rglob(kind)}
    assert len(files) > 10 and all((unpacked / path).is_file() for path in files)


def test_it_carries_the_launcher_for_slurm_and_no_site_s_own_values(unpacked: Path, tmp_path: Path):
    done = run(unpacked, tmp_path, "-m", "kdwatts", "--cfg", "hydra", "hydra/launcher=slurm")
    assert "_target_: hydra_plugins.kdwatts_slurm.KdwattsSlurmLauncher" in done.stdout, done.stderr
    assert [path.name for path in (unpacked / "kdwatts/conf/local").iterdir()] == ["example.yaml"]


def test_its_console_script_is_the_command_line(unpacked: Path):
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "kdwatts = kdwatts.cli:main" in entry_points.read_text()
